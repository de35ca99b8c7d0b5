package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var (
	redoNumber = regexp.MustCompile(`-\d{6}$`)
	adapters   = map[string]string{"lsilogic": "lsilogic", "buslogic": "buslogic", "ide": "ide"}
	diskTypes  = map[string]bool{"thin": true, "thick": false, "preallocated": false, "eagerzeroedthick": false}
)

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
			for _, file := range d.files(p.file()) {
				if _, missing := os.Stat(file); missing != nil {
					err = missing
				}
			}
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
		if base := links[len(links)-1]; base.hosted() && !s.multiextent {
			message := fmt.Sprintf("Unsupported or invalid disk type 2 for %s. Ensure that the disk has been imported.", base)
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
		made := newDisk(p.path, adapter, thin, asked.CapacityKb<<10/sector)
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
		made := newDisk(target.path, adapter, thin, links[0].sectors())
		if base := links[len(links)-1]; base.hosted() && !s.multiextent {
			return nil, diskRefusal(base.place, errFormat)
		} else if !s.esx {
			made.kind, made.adapter, made.thin = base.kind, base.adapter, base.thin
			made.extents[0].access = base.extents[0].access
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
	file := made.files(target.file())[0]
	content, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if closed := content.Close(); err == nil {
			err = closed
		}
		if ctx.Err() != nil {
			_ = os.Remove(file)
			_ = os.Remove(target.file())
		}
	}()
	if err := content.Truncate(made.sectors() * sector); err != nil {
		return err
	}
	type part struct {
		content *os.File
		at      int64
	}
	var parts []part
	total := int64(0)
	for i := len(links) - 1; i >= 0; i-- {
		at := int64(0)
		for j, file := range links[i].files(links[i].file()) {
			source, err := os.Open(file)
			if err != nil {
				return err
			}
			defer source.Close()
			parts = append(parts, part{source, at})
			total += stored(source)
			at += links[i].extents[j].sectors * sector
		}
	}
	under := s.transfer(ctx, target.store, progress, total)
	for _, from := range parts {
		if err := under.data(content, from.content, from.at); err != nil {
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
		made := d.renamed(source.path, target.path)
		text, err := os.OpenFile(target.file(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, target.refusal(err)
		}
		_, err = text.WriteString(made.text())
		if closed := text.Close(); err == nil {
			err = closed
		}
		for i, file := range d.files(source.file()) {
			if err == nil {
				err = os.Rename(file, made.files(target.file())[i])
			}
		}
		if err != nil {
			_ = os.Remove(target.file())
			return nil, source.refusal(err)
		}
		return nil, source.refusal(os.Remove(source.file()))
	}}, nil
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
	for _, file := range d.files(p.file()) {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return p.refusal(err)
		}
	}
	return p.refusal(os.Remove(p.file()))
}
