package main

import (
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// settings are the lines of a VMX file. Keys are case-insensitive; what take returns counts as understood, the rest
// ends in the VM's extraConfig, as with ESXi.
type settings struct {
	values map[string]string // by lower-case key
	names  map[string]string // the key as written
	used   map[string]bool
}

var (
	vmxLine = regexp.MustCompile(`^\s*([^\s="]+)\s*=\s*"([^"]*)"\s*$`)
	vmxCode = regexp.MustCompile(`\|[0-9A-Fa-f]{2}`)

	vmxUnsafe = strings.NewReplacer(`"`, "|22", "|", "|7C", "\n", "|0A")
)

func parseVMX(content string) (*settings, *refusal) {
	made := &settings{map[string]string{}, map[string]string{}, map[string]bool{}}
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		found := vmxLine.FindStringSubmatch(line)
		if found == nil {
			return nil, badVMX("", "line %d is not key = \"value\"", i+1)
		}
		key := strings.ToLower(found[1])
		if _, twice := made.values[key]; twice {
			return nil, badVMX(found[1], "line %d sets %s a second time", i+1, found[1])
		}
		made.names[key] = found[1]
		made.values[key] = vmxCode.ReplaceAllStringFunc(found[2], func(code string) string {
			value, _ := strconv.ParseUint(code[1:], 16, 8)
			return string([]byte{byte(value)})
		})
	}
	return made, nil
}

func badVMX(property, format string, args ...interface{}) *refusal {
	return refuse(&types.InvalidVmConfig{Property: property},
		"Invalid virtual machine configuration: %s.", fmt.Sprintf(format, args...))
}

func (v *settings) take(key, otherwise string) string {
	key = strings.ToLower(key)
	v.used[key] = true
	if value, ok := v.values[key]; ok {
		return value
	}
	return otherwise
}

func (v *settings) takeTrue(key string) bool { return strings.EqualFold(v.take(key, "FALSE"), "TRUE") }

func (v *settings) takeNumber(key string, otherwise int64) (int32, *refusal) {
	text := v.take(key, strconv.FormatInt(otherwise, 10))
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n <= 0 {
		return 0, badVMX(key, "%s is %q, not a positive number", key, text)
	}
	return int32(n), nil
}

// rest is what nothing asked for.
func (v *settings) rest() []types.BaseOptionValue {
	keys := []string{}
	for key := range v.values {
		if !v.used[key] {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	var left []types.BaseOptionValue
	for _, key := range keys {
		left = append(left, &types.OptionValue{Key: v.names[key], Value: v.values[key]})
	}
	return left
}

// biosUUID reads `56 4d 12 ...-...` as the API writes it; "" if it is none.
func biosUUID(text string) string {
	digits := strings.NewReplacer(" ", "", "-", "").Replace(strings.ToLower(text))
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(digits) {
		return ""
	}
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
}

// guestID turns the short name of a VMX ("windows9srv-64") into the API's ("windows9Server64Guest").
func guestID(short string) string {
	name := strings.NewReplacer("srv", "server", "longhorn", "winlonghorn").Replace(strings.ToLower(short))
	base := strings.TrimSuffix(name, "-64")
	wanted := []string{base + "guest", base}
	if base != name {
		wanted = []string{base + "64guest", base + "_64guest", base + "guest64"}
	}
	for _, id := range simulator.GuestID {
		for _, name := range wanted {
			if strings.EqualFold(string(id), name) {
				return string(id)
			}
		}
	}
	return string(types.VirtualMachineGuestOsIdentifierOtherGuest)
}

// rewriteVMX changes values of a VMX file, as ESXi does when a VM's hardware changes.
func rewriteVMX(file string, values map[string]string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	for key, value := range values {
		line, replaced := fmt.Sprintf(`%s = "%s"`, key, vmxUnsafe.Replace(value)), false
		for i := range lines {
			if found := vmxLine.FindStringSubmatch(lines[i]); found != nil && strings.EqualFold(found[1], key) {
				lines[i], replaced = line, true
			}
		}
		if !replaced {
			lines = append(lines, line)
		}
	}
	return writeWhole(file, strings.NewReader(strings.Join(lines, "\n")+"\n"))
}
