package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const sector = 512

// descriptor is the text file X.vmdk that describes a disk whose content is in the file beside it.
type descriptor struct {
	adapter string // lsilogic, buslogic, ide
	thin    bool
	sectors int64
	extent  string // file beside the descriptor
	parent  string // of a redo disk, as written: beside it or /vmfs/volumes/...
}

var (
	extentLine = regexp.MustCompile(`(?m)^RW\s+(\d+)\s+\w+\s+"([^"]+)"`)
	keyLine    = regexp.MustCompile(`(?m)^\s*([\w.]+)\s*=\s*"?([^"\n]*)"?\s*$`)
	redoNumber = regexp.MustCompile(`-\d{6}$`)
	adapters   = map[string]string{"lsilogic": "lsilogic", "buslogic": "buslogic", "ide": "ide"}
	diskTypes  = map[string]bool{"thin": true, "thick": false, "preallocated": false, "eagerzeroedthick": false}
	errFormat  = errors.New("not a disk descriptor")
)

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
	extent := extentLine.FindStringSubmatch(string(content))
	if extent == nil {
		return nil, errFormat
	}
	d := &descriptor{adapter: "lsilogic", extent: extent[2]}
	d.sectors, _ = strconv.ParseInt(extent[1], 10, 64)
	for _, pair := range keyLine.FindAllStringSubmatch(string(content), -1) {
		switch strings.ToLower(pair[1]) {
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
	kind, access, parentID, hint := "vmfs", "VMFS", "ffffffff", ""
	if d.parent != "" {
		kind, access, parentID = "vmfsSparse", "VMFSSPARSE", "fffffffe"
		hint = fmt.Sprintf("parentFileNameHint=%q\n", d.parent)
	}
	thin := ""
	if d.thin {
		thin = "ddb.thinProvisioned = \"1\"\n"
	}
	return fmt.Sprintf("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fffffffe\nparentCID=%s\ncreateType=%q\n%s"+
		"\n# Extent description\nRW %d %s %q\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = %q\n%s"+
		"ddb.virtualHWVersion = \"11\"\n", parentID, kind, hint, d.sectors, access, d.extent, d.adapter, thin)
}

func (d *descriptor) extentOf(file string) string { return filepath.Join(dirOf(file), d.extent) }

// extentName is what the content of the disk X.vmdk is called.
func extentName(file string) string {
	return strings.TrimSuffix(path.Base(file), ".vmdk") + "-flat.vmdk"
}

// link is one disk of a chain from the newest redo disk to the base.
type link struct {
	place
	*descriptor
}

func (s *server) parentOf(p place, d *descriptor) (place, bool) {
	if d.parent == "" {
		return place{}, false
	}
	return s.volume(d.parent, p.store.name, path.Dir(p.path))
}

// chain reads a disk and all it is based on. What is missing or broken is refused, with the links found until then.
func (s *server) chain(p place) ([]link, *refusal) {
	var links []link
	for {
		d, err := readDescriptor(p.file())
		if err == nil {
			_, err = os.Stat(d.extentOf(p.file()))
		}
		if err != nil {
			return links, diskRefusal(p, err)
		}
		links = append(links, link{p, d})
		if d.parent == "" {
			return links, nil
		}
		parent, ok := s.parentOf(p, d)
		if !ok || len(links) > 32 {
			return links, diskRefusal(p, errFormat)
		}
		p = parent
	}
}

func diskRefusal(p place, err error) *refusal {
	if errors.Is(err, errFormat) {
		return refuse(&types.InvalidDiskFormat{}, "The file %s is not a virtual disk.", p)
	}
	return p.refusal(err)
}

// lockDisks takes what a running VM holds: its own disks for itself, their bases together with other readers.
func (s *server) lockDisks(vm *simulator.VirtualMachine) *refusal {
	s.unlockDisks(vm)
	for _, disk := range disksOf(vm) {
		p, refused := s.locate(fileOf(disk))
		if refused != nil {
			return refuse(&types.FileNotFound{FileFault: types.FileFault{File: fileOf(disk)}}, "File %s was not found", fileOf(disk))
		}
		links, refused := s.chain(p)
		if refused != nil {
			return refused
		}
		_, onIDE := vmDevice(vm, disk.ControllerKey).(*types.VirtualIDEController)
		if isIDE := links[0].adapter == "ide"; isIDE != onIDE {
			message := fmt.Sprintf("The disk %s has adapter type %s, which does not fit its controller.", p, links[0].adapter)
			return refuse(&types.GenericVmConfigFault{Reason: message}, "%s", message)
		}
		for i, link := range links {
			held, err := lockFile(link.file(), i == 0)
			if err != nil {
				return link.refusal(err)
			}
			s.locks[vm.Self] = append(s.locks[vm.Self], held)
		}
	}
	return nil
}

func (s *server) unlockDisks(vm *simulator.VirtualMachine) {
	for _, held := range s.locks[vm.Self] {
		_ = held.Close()
	}
	delete(s.locks, vm.Self)
}

func vmDevice(vm *simulator.VirtualMachine, key int32) types.BaseVirtualDevice {
	for _, device := range vm.Config.Hardware.Device {
		if device.GetVirtualDevice().Key == key {
			return device
		}
	}
	return nil
}

// wanted reads a disk specification.
func wanted(spec types.BaseVirtualDiskSpec) (adapter string, thin bool, refused *refusal) {
	asked := spec.GetVirtualDiskSpec()
	adapter, known := adapters[strings.ToLower(asked.AdapterType)]
	thin, fine := diskTypes[strings.ToLower(asked.DiskType)]
	if !known || !fine {
		return "", false, refuse(&types.InvalidArgument{InvalidProperty: "spec"},
			"A specified parameter was not correct: diskType %q, adapterType %q", asked.DiskType, asked.AdapterType)
	}
	return adapter, thin, nil
}

func (s *server) createDisk(req *types.CreateVirtualDisk_Task) (*job, *refusal) {
	p, refused := s.locateIn(req.Datacenter, req.Name)
	if refused != nil {
		return nil, refused
	}
	adapter, thin, refused := wanted(req.Spec)
	if refused != nil {
		return nil, refused
	}
	asked, ok := req.Spec.(*types.FileBackedVirtualDiskSpec)
	if !ok || asked.CapacityKb <= 0 {
		return nil, refuse(&types.InvalidArgument{InvalidProperty: "spec"}, "A specified parameter was not correct: spec")
	}
	return &job{work: func(ctx context.Context) (types.AnyType, *refusal) {
		made := &descriptor{adapter: adapter, thin: thin, sectors: asked.CapacityKb << 10 / sector, extent: extentName(p.path)}
		err := s.fill(ctx, p, made, nil, nil)
		return p.String(), p.refusal(err)
	}}, nil
}

// copyDisk makes a whole disk of a disk with all it is based on.
func (s *server) copyDisk(req *types.CopyVirtualDisk_Task) (*job, *refusal) {
	source, refused := s.locateIn(req.SourceDatacenter, req.SourceName)
	if refused != nil {
		return nil, refused
	}
	other := req.DestDatacenter
	if other == nil {
		other = req.SourceDatacenter
	}
	target, refused := s.locateIn(other, req.DestName)
	if refused != nil {
		return nil, refused
	}
	// Without a specification ESXi assumes a preallocated disk for a BusLogic controller (its documentation); a
	// vCenter takes none and keeps what the source is.
	adapter, thin := "buslogic", false
	if req.DestSpec != nil {
		if !s.esx {
			return nil, refuse(&types.NotImplemented{}, "The method is not implemented with destSpec.")
		}
		if adapter, thin, refused = wanted(req.DestSpec); refused != nil {
			return nil, refused
		}
	}
	j := &job{cancelable: true}
	j.work = func(ctx context.Context) (types.AnyType, *refusal) {
		links, refused := s.chain(source)
		if refused != nil {
			return nil, refused
		}
		for _, link := range links {
			held, err := lockFile(link.file(), false)
			if err != nil {
				return nil, link.refusal(err)
			}
			defer held.Close()
		}
		made := &descriptor{adapter: adapter, thin: thin, sectors: links[0].sectors, extent: extentName(target.path)}
		if !s.esx {
			base := links[len(links)-1]
			made.adapter, made.thin = base.adapter, base.thin
		}
		if err := s.fill(ctx, target, made, links, j.progress); err != nil {
			return nil, target.refusal(err)
		}
		return target.String(), nil
	}
	return j, nil
}

// fill makes a new disk from the layers of a chain (none for an empty one). On failure what was written stays, as on
// ESXi; only a cancelled copy is taken back.
func (s *server) fill(ctx context.Context, target place, made *descriptor, links []link, progress func(int32)) (err error) {
	defer s.measureAll()
	text, err := os.OpenFile(target.file(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = text.WriteString(made.text())
	if closed := text.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	held, err := lockFile(target.file(), true)
	if err != nil {
		return err
	}
	defer held.Close()
	content, err := os.OpenFile(made.extentOf(target.file()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if closed := content.Close(); err == nil {
			err = closed
		}
		if ctx.Err() != nil {
			_ = os.Remove(made.extentOf(target.file()))
			_ = os.Remove(target.file())
		}
	}()
	if err := content.Truncate(made.sectors * sector); err != nil {
		return err
	}
	var layers []*os.File
	total := int64(0)
	for i := len(links) - 1; i >= 0; i-- {
		layer, err := os.Open(links[i].extentOf(links[i].file()))
		if err != nil {
			return err
		}
		defer layer.Close()
		layers = append(layers, layer)
		total += stored(layer)
	}
	under := s.transfer(ctx, target.store, progress, total)
	for _, layer := range layers {
		if err := under.data(content, layer, 0); err != nil {
			return err
		}
	}
	return nil
}

// transfer is a copy onto a datastore, whose room others may be using up, too. `progress` is told percents of `total`.
func (s *server) transfer(ctx context.Context, into *store, progress func(int32), total int64) *transfer {
	done := int64(0)
	return &transfer{
		ctx: ctx, pace: &s.pace,
		room: func() int64 {
			_, free := s.space(into)
			return free
		},
		wrote: func(bytes int64) {
			if done += bytes; progress != nil && total > 0 {
				progress(int32(done * 100 / total))
			}
		},
	}
}

func (s *server) moveDisk(req *types.MoveVirtualDisk_Task) (*job, *refusal) {
	source, refused := s.locateIn(req.SourceDatacenter, req.SourceName)
	if refused != nil {
		return nil, refused
	}
	other := req.DestDatacenter
	if other == nil {
		other = req.SourceDatacenter
	}
	target, refused := s.locateIn(other, req.DestName)
	if refused != nil {
		return nil, refused
	}
	return &job{work: func(context.Context) (types.AnyType, *refusal) {
		defer s.measureAll()
		d, err := readDescriptor(source.file())
		if err != nil {
			return nil, diskRefusal(source, err)
		}
		held, err := lockFile(source.file(), true)
		if err != nil {
			return nil, source.refusal(err)
		}
		defer held.Close()
		if parent, ok := s.parentOf(source, d); ok {
			d.parent = parent.volumePath()
		}
		from := d.extentOf(source.file())
		d.extent = strings.TrimSuffix(path.Base(target.path), ".vmdk") + extentSuffix(d)
		text, err := os.OpenFile(target.file(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, target.refusal(err)
		}
		_, err = text.WriteString(d.text())
		if closed := text.Close(); err == nil {
			err = closed
		}
		if err == nil {
			err = os.Rename(from, d.extentOf(target.file()))
		}
		if err != nil {
			_ = os.Remove(target.file())
			return nil, source.refusal(err)
		}
		return nil, source.refusal(os.Remove(source.file()))
	}}, nil
}

func extentSuffix(d *descriptor) string {
	if d.parent != "" {
		return "-delta.vmdk"
	}
	return "-flat.vmdk"
}

func (s *server) deleteDisk(req *types.DeleteVirtualDisk_Task) (*job, *refusal) {
	p, refused := s.locateIn(req.Datacenter, req.Name)
	if refused != nil {
		return nil, refused
	}
	return &job{work: func(context.Context) (types.AnyType, *refusal) {
		defer s.measureAll()
		return nil, s.removeDisk(p)
	}}, nil
}

func (s *server) removeDisk(p place) *refusal {
	d, err := readDescriptor(p.file())
	if err != nil {
		return diskRefusal(p, err)
	}
	held, err := lockFile(p.file(), true)
	if err != nil {
		return p.refusal(err)
	}
	defer held.Close()
	if err := os.Remove(d.extentOf(p.file())); err != nil && !os.IsNotExist(err) {
		return p.refusal(err)
	}
	return p.refusal(os.Remove(p.file()))
}
