package main

import (
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// createSnapshot gives every disk of the VM a redo disk: beside the disk it is based on, whosever that is, unless the
// VMX says snapshot.redoNotWithParent, then in the VM's own directory.
func (s *server) createSnapshot(req *types.CreateSnapshot_Task) (*job, *refusal) {
	return s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		home, refused := s.locate(vm.Config.Files.VmPathName)
		if refused != nil {
			return nil, refused
		}
		beside := !strings.EqualFold(extraConfig(vm, "snapshot.redoNotWithParent"), "TRUE")
		devices := append([]types.BaseVirtualDevice(nil), vm.Config.Hardware.Device...)
		renamed := map[string]string{}
		for i, device := range devices {
			disk, ok := device.(*types.VirtualDisk)
			if !ok || strings.HasPrefix(disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode, "independent") {
				continue
			}
			parent, refused := s.locate(fileOf(disk))
			if refused != nil {
				return nil, refused
			}
			into := place{home.store, path.Dir(home.path)}
			if beside {
				into = place{parent.store, path.Dir(parent.path)}
			}
			redo, refused := s.addRedo(parent, into)
			if refused != nil {
				return nil, refused
			}
			copied := *disk // property collectors may be reading the other one
			copied.Backing = s.backing(redo.String(), disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode)
			devices[i] = &copied
			renamed[vmxUnit(vm, &copied)+".fileName"] = redo.volumePath()
			if redo.store == home.store && path.Dir(redo.path) == path.Dir(home.path) {
				renamed[vmxUnit(vm, &copied)+".fileName"] = path.Base(redo.path)
			}
		}
		// The VMX names the redo disk from now on: registered again, the VM must not write to the base.
		if err := rewriteVMX(home.file(), renamed); err != nil {
			return nil, home.refusal(err)
		}
		return s.recordSnapshot(vm, req, devices), nil
	}), nil
}

// addRedo makes the next free X-00000N.vmdk in a directory.
func (s *server) addRedo(parent, into place) (place, *refusal) {
	links, refused := s.chain(parent)
	if refused != nil {
		return place{}, refused
	}
	name := redoNumber.ReplaceAllString(strings.TrimSuffix(path.Base(parent.path), ".vmdk"), "")
	for n := 1; ; n++ {
		redo := place{into.store, path.Join(into.path, fmt.Sprintf("%s-%06d.vmdk", name, n))}
		text, err := os.OpenFile(redo.file(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			return place{}, redo.refusal(err)
		}
		made := newRedo(redo.path, parent.volumePath(), links[0].descriptor)
		if parent.store == into.store && path.Dir(parent.path) == into.path {
			made.parent = path.Base(parent.path)
		}
		_, err = text.WriteString(made.text())
		if closed := text.Close(); err == nil {
			err = closed
		}
		if err == nil {
			err = os.WriteFile(made.files(redo.file())[0], nil, 0o644)
		}
		return redo, redo.refusal(err)
	}
}

// vmxUnit is how the VMX calls a disk's place: scsi0:0.
func vmxUnit(vm *simulator.VirtualMachine, disk *types.VirtualDisk) string {
	bus := "scsi"
	controller := vmDevice(vm, disk.ControllerKey)
	switch controller.(type) {
	case *types.VirtualIDEController:
		bus = "ide"
	case *types.VirtualAHCIController:
		bus = "sata"
	}
	number := controller.(types.BaseVirtualController).GetVirtualController().BusNumber
	return fmt.Sprintf("%s%d:%d", bus, number, *disk.UnitNumber)
}

// recordSnapshot puts it into the VM's tree and makes the VM use its new disks.
func (s *server) recordSnapshot(vm *simulator.VirtualMachine, req *types.CreateSnapshot_Task, devices []types.BaseVirtualDevice) ref {
	snapshot := &simulator.VirtualMachineSnapshot{}
	snapshot.Vm = vm.Self
	snapshot.Config = *vm.Config
	self := simulator.Map.Put(snapshot).Reference()
	tree := types.VirtualMachineSnapshotTree{
		Snapshot: self, Vm: vm.Self, Name: req.Name, Description: req.Description, Id: int32(number(self)),
		CreateTime: time.Now(), State: vm.Runtime.PowerState, Quiesced: req.Quiesce, ReplaySupported: types.NewBool(false),
	}
	info := &types.VirtualMachineSnapshotInfo{CurrentSnapshot: &self}
	if vm.Snapshot == nil {
		info.RootSnapshotList = []types.VirtualMachineSnapshotTree{tree}
	} else {
		info.RootSnapshotList = grow(vm.Snapshot.RootSnapshotList, *vm.Snapshot.CurrentSnapshot, tree)
	}
	running := vm.Runtime.PowerState == on
	update(vm,
		change{Name: "snapshot", Val: info},
		change{Name: "config.hardware.device", Val: devices})
	if running {
		_ = s.lockDisks(vm) // the redo disk instead of the base, which it shares from now on
	}
	return self
}

// grow is a copy of a snapshot tree with one more child under a snapshot.
func grow(trees []types.VirtualMachineSnapshotTree, under ref, child types.VirtualMachineSnapshotTree) []types.VirtualMachineSnapshotTree {
	grown := append([]types.VirtualMachineSnapshotTree(nil), trees...)
	for i := range grown {
		grown[i].ChildSnapshotList = grow(grown[i].ChildSnapshotList, under, child)
		if grown[i].Snapshot == under {
			grown[i].ChildSnapshotList = append(grown[i].ChildSnapshotList, child)
		}
	}
	return grown
}
