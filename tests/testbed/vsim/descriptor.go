package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const sector = 512

// descriptor is the text file X.vmdk that describes a disk whose content is in files beside it.
type descriptor struct {
	kind    string // createType
	adapter string // lsilogic, buslogic, ide
	thin    bool
	extents []extent
	parent  string // of a redo disk, as written: beside it or /vmfs/volumes/...
}

// extent is a part of the disk. A sparse one is a file with holes here, whatever its format should be.
type extent struct {
	access  string // VMFS, VMFSSPARSE, FLAT, SPARSE
	name    string // of its file
	sectors int64
}

var (
	extentLine = regexp.MustCompile(`(?m)^RW\s+(\d+)\s+(\w+)\s+"([^"]+)"`)
	keyLine    = regexp.MustCompile(`(?m)^\s*([\w.]+)\s*=\s*"?([^"\n]*)"?\s*$`)
	errFormat  = errors.New("not a disk descriptor")
)

// newDisk describes a disk for the descriptor file X.vmdk, with its content in X-flat.vmdk.
func newDisk(file, adapter string, thin bool, sectors int64) *descriptor {
	name := strings.TrimSuffix(path.Base(file), ".vmdk") + "-flat.vmdk"
	return &descriptor{kind: "vmfs", adapter: adapter, thin: thin, extents: []extent{{"VMFS", name, sectors}}}
}

// newRedo describes a disk over another one, with what differs in X-delta.vmdk.
func newRedo(file, parent string, base *descriptor) *descriptor {
	name := strings.TrimSuffix(path.Base(file), ".vmdk") + "-delta.vmdk"
	return &descriptor{
		kind: "vmfsSparse", adapter: base.adapter, thin: true, parent: parent,
		extents: []extent{{"VMFSSPARSE", name, base.sectors()}},
	}
}

func readDescriptor(file string) (*descriptor, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() || info.Size() > 64<<10 {
		return nil, errFormat
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := &descriptor{kind: "vmfs", adapter: "lsilogic"}
	for _, found := range extentLine.FindAllStringSubmatch(string(content), -1) {
		sectors, _ := strconv.ParseInt(found[1], 10, 64)
		d.extents = append(d.extents, extent{found[2], found[3], sectors})
	}
	if d.extents == nil {
		return nil, errFormat
	}
	for _, pair := range keyLine.FindAllStringSubmatch(string(content), -1) {
		switch strings.ToLower(pair[1]) {
		case "createtype":
			d.kind = pair[2]
		case "ddb.adaptertype":
			d.adapter = strings.ToLower(pair[2])
		case "ddb.thinprovisioned":
			d.thin = pair[2] == "1"
		case "parentfilenamehint":
			d.parent = pair[2]
		}
	}
	return d, nil
}

func (d *descriptor) text() string {
	parentID, hint, thin, extents := "ffffffff", "", "", ""
	if d.parent != "" {
		parentID, hint = "fffffffe", fmt.Sprintf("parentFileNameHint=%q\n", d.parent)
	}
	if d.thin {
		thin = "ddb.thinProvisioned = \"1\"\n"
	}
	for _, part := range d.extents {
		extents += fmt.Sprintf("RW %d %s %q\n", part.sectors, part.access, part.name)
	}
	return fmt.Sprintf("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fffffffe\nparentCID=%s\ncreateType=%q\n%s"+
		"\n# Extent description\n%s\n# The Disk Data Base\n#DDB\n\nddb.adapterType = %q\n%s"+
		"ddb.virtualHWVersion = \"11\"\n", parentID, d.kind, hint, extents, d.adapter, thin)
}

func (d *descriptor) sectors() (all int64) {
	for _, part := range d.extents {
		all += part.sectors
	}
	return all
}

// files are the extents of a disk whose descriptor is `file`.
func (d *descriptor) files(file string) []string {
	var found []string
	for _, part := range d.extents {
		found = append(found, filepath.Join(dirOf(file), part.name))
	}
	return found
}

// renamed is the disk when its descriptor is called `target` instead of `source`.
func (d *descriptor) renamed(source, target string) *descriptor {
	old, name := strings.TrimSuffix(path.Base(source), ".vmdk"), strings.TrimSuffix(path.Base(target), ".vmdk")
	made := *d
	made.extents = nil
	for i, part := range d.extents {
		if strings.HasPrefix(part.name, old+"-") {
			part.name = name + strings.TrimPrefix(part.name, old)
		} else {
			part.name = fmt.Sprintf("%s-f%03d.vmdk", name, i+1)
		}
		made.extents = append(made.extents, part)
	}
	return &made
}

// hosted tells a disk in the format of Workstation from one of ESXi.
func (d *descriptor) hosted() bool { return !strings.HasPrefix(strings.ToLower(d.kind), "vmfs") }
