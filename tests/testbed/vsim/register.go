package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// locked makes work of what needs the inventory for itself.
func (s *server) locked(do func() (types.AnyType, *refusal)) func(context.Context) (types.AnyType, *refusal) {
	return func(context.Context) (types.AnyType, *refusal) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return do()
	}
}

func allVMs() []*simulator.VirtualMachine {
	var found []*simulator.VirtualMachine
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		if vm.Config != nil && vm.Runtime.Host != nil { // else the simulator gave up half way through CreateVM_Task
			found = append(found, vm)
		}
	}
	return found
}

func findVM(r ref) (*simulator.VirtualMachine, *refusal) {
	vm, ok := simulator.Map.Get(r).(*simulator.VirtualMachine)
	if !ok {
		return nil, gone(r)
	}
	return vm, nil
}

func hostOf(vm *simulator.VirtualMachine) *simulator.HostSystem {
	return simulator.Map.Get(*vm.Runtime.Host).(*simulator.HostSystem)
}

// vmJob is a task that a VM can have only one of at a time.
func (s *server) vmJob(this ref, do func(*simulator.VirtualMachine) (types.AnyType, *refusal)) *job {
	return &job{entity: &this, alone: &this, work: s.locked(func() (types.AnyType, *refusal) {
		vm, refused := findVM(this)
		if refused != nil {
			return nil, refused
		}
		if refused := connected(hostOf(vm)); refused != nil {
			return nil, refused
		}
		return do(vm)
	})}
}

func (s *server) registerVM(req *types.RegisterVM_Task) (*job, *refusal) {
	if req.Path == "" {
		return nil, refuse(&types.InvalidArgument{InvalidProperty: "path"}, "A specified parameter was not correct: path")
	}
	if req.AsTemplate {
		return nil, refuse(&types.NotSupported{}, "Templates are not supported here.")
	}
	if req.Pool == nil {
		return nil, refuse(&types.InvalidArgument{InvalidProperty: "pool"}, "A specified parameter was not correct: pool")
	}
	home, refused := s.locate(req.Path)
	if refused != nil {
		return nil, refused
	}
	return &job{entity: &req.This, work: s.locked(func() (types.AnyType, *refusal) {
		return s.register(req, home)
	})}, nil
}

func (s *server) register(req *types.RegisterVM_Task, home place) (types.AnyType, *refusal) {
	for _, vm := range allVMs() {
		if vm.Config.Files.VmPathName == home.String() {
			return nil, refuse(&types.AlreadyExists{Name: vm.Self.Value}, "The specified key, name, or identifier '%s' "+
				"already exists.", vm.Self.Value)
		}
	}
	content, err := os.ReadFile(home.file())
	if err != nil {
		return nil, refuse(&types.NotFound{}, "The object or item referred to could not be found: %s", home)
	}
	vmx, refused := parseVMX(string(content))
	if refused != nil {
		return nil, refused
	}
	host, refused := s.hostFor(req)
	if refused != nil {
		return nil, refused
	}
	name := vmx.take("displayName", path.Base(path.Dir(home.path)))
	if req.Name != "" {
		name = req.Name
	}
	folder, ok := simulator.Map.Get(req.This).(*simulator.Folder)
	if !ok {
		return nil, gone(req.This)
	}
	if twin := simulator.Map.FindByName(name, folder.ChildEntity); twin != nil && !s.esx {
		return nil, refuse(&types.DuplicateName{Name: name, Object: twin.Reference()}, "The name '%s' already exists.", name)
	}
	vm, refused := s.newVM(vmx, name, home, host)
	if refused != nil {
		return nil, refused
	}
	vm.ResourcePool = req.Pool
	simulator.Map.NewEntity(vm)
	vm.Summary.Vm = &vm.Self
	putChild(req.This, vm)
	update(host, change{Name: "vm", Val: with(host.Vm, vm.Self)})
	for _, r := range vm.Datastore {
		ds := simulator.Map.Get(r).(*simulator.Datastore)
		update(ds, change{Name: "vm", Val: with(ds.Vm, vm.Self)})
	}
	if pool, ok := simulator.Map.Get(*req.Pool).(*simulator.ResourcePool); ok {
		update(pool, change{Name: "vm", Val: with(pool.Vm, vm.Self)})
	}
	s.remember()
	return vm.Self, nil
}

// hostFor is the host asked for, or the emptiest of the pool's compute resource.
func (s *server) hostFor(req *types.RegisterVM_Task) (*simulator.HostSystem, *refusal) {
	pool, ok := simulator.Map.Get(*req.Pool).(*simulator.ResourcePool)
	if !ok {
		return nil, gone(*req.Pool)
	}
	var chosen *simulator.HostSystem
	for _, host := range s.hosts {
		switch {
		case computeResource(host).Self != pool.Owner:
		case req.Host != nil && host.Self != *req.Host:
		case req.Host == nil && (connected(host) != nil || host.Runtime.InMaintenanceMode):
		case chosen == nil || usedMB(host.Self) < usedMB(chosen.Self):
			chosen = host
		}
	}
	if chosen == nil {
		if req.Host != nil {
			return nil, refuse(&types.InvalidArgument{InvalidProperty: "host"}, "The host does not belong to the pool.")
		}
		return nil, refuse(&types.NoCompatibleHost{}, "No host is compatible with the virtual machine.")
	}
	return chosen, connected(chosen)
}

func (s *server) newVM(vmx *settings, name string, home place, host *simulator.HostSystem) (*simulator.VirtualMachine, *refusal) {
	memory, refused := vmx.takeNumber("memSize", 32)
	if refused != nil {
		return nil, refused
	}
	cpus, refused := vmx.takeNumber("numvcpus", 1)
	if refused != nil {
		return nil, refused
	}
	cores, refused := vmx.takeNumber("cpuid.coresPerSocket", 1)
	if refused != nil {
		return nil, refused
	}
	devices, refused := s.devices(vmx, home, host)
	if refused != nil {
		return nil, refused
	}
	id := biosUUID(vmx.take("uuid.bios", ""))
	if id == "" {
		id = stableUUID("bios " + host.Hardware.SystemInfo.Uuid + home.String())
	}
	guest, annotation := guestID(vmx.take("guestOS", "other")), vmx.take("annotation", "")
	directory := place{home.store, path.Dir(home.path)}.String() + "/"
	defaults := types.DefaultResourceConfigSpec()

	vm := &simulator.VirtualMachine{}
	vm.Name = name
	vm.Config = &types.VirtualMachineConfigInfo{
		Name: name, Annotation: annotation, GuestId: guest, GuestFullName: guest, Uuid: id,
		InstanceUuid: stableUUID("instance " + host.Hardware.SystemInfo.Uuid + home.String()),
		Version:      "vmx-" + vmx.take("virtualHW.version", "11"),
		Firmware:     vmx.take("firmware", "bios"),
		Modified:     time.Now(),
		Files: types.VirtualMachineFileInfo{
			VmPathName: home.String(), SnapshotDirectory: directory, SuspendDirectory: directory, LogDirectory: directory,
		},
		Hardware: types.VirtualHardware{NumCPU: cpus, NumCoresPerSocket: cores, MemoryMB: memory, Device: devices},
		Tools:    &types.ToolsConfigInfo{}, BootOptions: &types.VirtualMachineBootOptions{},
		MemoryAllocation: &defaults.MemoryAllocation, CpuAllocation: &defaults.CpuAllocation,
		MemoryHotAddEnabled: types.NewBool(vmx.takeTrue("mem.hotadd")),
		CpuHotAddEnabled:    types.NewBool(vmx.takeTrue("vcpu.hotadd")),
	}
	vm.Config.ExtraConfig = vmx.rest()
	vm.Layout = &types.VirtualMachineFileLayout{}
	vm.LayoutEx = &types.VirtualMachineFileLayoutEx{Timestamp: time.Now()}
	vm.Storage = &types.VirtualMachineStorageInfo{Timestamp: time.Now()}
	vm.Guest = &types.GuestInfo{
		ToolsStatus:        types.VirtualMachineToolsStatusToolsNotRunning,
		ToolsRunningStatus: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning),
		GuestState:         "notRunning",
	}
	vm.Runtime = types.VirtualMachineRuntimeInfo{
		Host: &host.Self, ConnectionState: types.VirtualMachineConnectionStateConnected,
		PowerState: types.VirtualMachinePowerStatePoweredOff,
	}
	vm.EnvironmentBrowser = *computeResource(host).EnvironmentBrowser
	vm.Summary = types.VirtualMachineSummary{
		Runtime: vm.Runtime, Guest: &types.VirtualMachineGuestSummary{GuestId: guest, ToolsStatus: vm.Guest.ToolsStatus},
		OverallStatus: types.ManagedEntityStatusGreen,
		QuickStats:    types.VirtualMachineQuickStats{GuestHeartbeatStatus: types.ManagedEntityStatusGray},
		Storage:       &types.VirtualMachineStorageSummary{Timestamp: time.Now()},
		Config: types.VirtualMachineConfigSummary{
			Name: name, VmPathName: home.String(), MemorySizeMB: memory, NumCpu: cpus, Uuid: id,
			InstanceUuid: vm.Config.InstanceUuid, GuestId: guest, GuestFullName: guest, Annotation: annotation,
			NumEthernetCards: int32(len(cardsOf(vm))), NumVirtualDisks: int32(len(disksOf(vm))),
		},
	}
	vm.Datastore = []ref{home.store.object.Self}
	for _, disk := range disksOf(vm) {
		if p, refused := s.locate(fileOf(disk)); refused == nil {
			vm.Datastore = with(vm.Datastore, p.store.object.Self)
		}
	}
	for _, card := range cardsOf(vm) {
		if network := card.Backing.(*types.VirtualEthernetCardNetworkBackingInfo).Network; network != nil {
			vm.Network = with(vm.Network, *network)
		}
	}
	return vm, nil
}

func (s *server) unregisterVM(req *types.UnregisterVM) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if task, taken := s.busy[req.This]; taken {
		return refuse(&types.TaskInProgress{Task: task}, "Another task is already in progress.")
	}
	vm, refused := findVM(req.This)
	if refused != nil {
		return refused
	}
	if refused := connected(hostOf(vm)); refused != nil {
		return refused
	}
	return s.forget(vm)
}

// forget takes a VM that does not run out of the inventory.
func (s *server) forget(vm *simulator.VirtualMachine) *refusal {
	if vm.Runtime.PowerState == on {
		return wrongPower(vm, off)
	}
	s.drop(vm)
	return nil
}

// drop takes a VM out of the inventory, whatever it does.
func (s *server) drop(vm *simulator.VirtualMachine) {
	host := hostOf(vm)
	update(host, change{Name: "vm", Val: without(host.Vm, vm.Self)})
	for _, r := range vm.Datastore {
		ds := simulator.Map.Get(r).(*simulator.Datastore)
		update(ds, change{Name: "vm", Val: without(ds.Vm, vm.Self)})
	}
	if vm.ResourcePool != nil {
		if pool, ok := simulator.Map.Get(*vm.ResourcePool).(*simulator.ResourcePool); ok {
			update(pool, change{Name: "vm", Val: without(pool.Vm, vm.Self)})
		}
	}
	folder := simulator.Map.Get(*vm.Parent).(*simulator.Folder)
	update(folder, change{Name: "childEntity", Val: without(folder.ChildEntity, vm.Self)})
	simulator.Map.Remove(vm.Self)
	delete(s.open, vm.Self)
	s.remember()
}

// destroy deletes the VM's disks with everything they are based on, wherever that lies: a linked VM that is destroyed
// takes the golden disk with it, as on ESXi. What else is in the directory stays.
func (s *server) destroy(req *types.Destroy_Task) (*job, *refusal) {
	return s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		if refused := s.forget(vm); refused != nil {
			return nil, refused
		}
		for _, disk := range disksOf(vm) {
			if p, refused := s.locate(fileOf(disk)); refused == nil {
				links, _ := s.chain(p)
				for _, link := range links {
					_ = s.removeDisk(link.place)
				}
			}
		}
		if home, refused := s.locate(vm.Config.Files.VmPathName); refused == nil {
			base := strings.TrimSuffix(home.file(), ".vmx")
			for _, suffix := range []string{".vmx", ".nvram", ".vmsd", ".vmxf"} {
				_ = os.Remove(base + suffix)
			}
			_ = os.Remove(path.Join(path.Dir(home.file()), "vmware.log"))
			_ = os.Remove(path.Dir(home.file())) // only if nothing else is in it
		}
		s.measureAll()
		return nil, nil
	}), nil
}

// clone: a standalone host cannot. With a vCenter the simulator's own is what there is.
func (s *server) clone(req *types.CloneVM_Task) (*job, *refusal) {
	if s.esx {
		return nil, refuse(&types.NotSupported{}, "The operation is not supported on the object.")
	}
	return &job{entity: &req.This, alone: &req.This, work: s.locked(func() (types.AnyType, *refusal) {
		return runSimulator(&simulator.Method{Name: "CloneVM_Task", This: req.This, Body: req})
	})}, nil
}

// reconfigure lets the simulator do it, which tells nobody; so that is done here.
func (s *server) reconfigure(req *types.ReconfigVM_Task) (*job, *refusal) {
	return s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		running := vm.Runtime.PowerState == on
		hot := func(enabled *bool, asked, now int64) bool { return asked == 0 || *enabled && asked >= now }
		if running && (!hot(vm.Config.MemoryHotAddEnabled, req.Spec.MemoryMB, int64(vm.Config.Hardware.MemoryMB)) ||
			!hot(vm.Config.CpuHotAddEnabled, int64(req.Spec.NumCPUs), int64(vm.Config.Hardware.NumCPU))) {
			return nil, wrongPower(vm, off)
		}
		if more := req.Spec.MemoryMB - int64(vm.Config.Hardware.MemoryMB); running && req.Spec.MemoryMB > 0 {
			if refused := s.admitMemory(hostOf(vm), more); refused != nil {
				return nil, refused
			}
		}
		_, refused := runSimulator(&simulator.Method{Name: "ReconfigVM_Task", This: vm.Self, Body: req})
		s.completeDisks(vm)
		update(mo.Reference(vm),
			change{Name: "name", Val: vm.Name},
			change{Name: "config.name", Val: vm.Name},
			change{Name: "summary.config.name", Val: vm.Name},
			change{Name: "config.annotation", Val: vm.Config.Annotation},
			change{Name: "summary.config.annotation", Val: vm.Config.Annotation},
			change{Name: "config.hardware.memoryMB", Val: vm.Config.Hardware.MemoryMB},
			change{Name: "summary.config.memorySizeMB", Val: vm.Config.Hardware.MemoryMB},
			change{Name: "config.hardware.numCPU", Val: vm.Config.Hardware.NumCPU},
			change{Name: "summary.config.numCpu", Val: vm.Config.Hardware.NumCPU})
		s.account(hostOf(vm))
		s.remember()
		if refused != nil {
			return nil, refused
		}
		return nil, s.writeConfig(vm, &req.Spec)
	}), nil
}

// writeConfig puts what changed into the VMX, from which the VM is made again when it is registered again. Changes of
// devices are not written.
func (s *server) writeConfig(vm *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) *refusal {
	changed := map[string]string{}
	put := func(key, value string, given bool) {
		if given {
			changed[key] = value
		}
	}
	put("displayName", spec.Name, spec.Name != "")
	put("annotation", spec.Annotation, spec.Annotation != "")
	put("memSize", fmt.Sprint(spec.MemoryMB), spec.MemoryMB > 0)
	put("numvcpus", fmt.Sprint(spec.NumCPUs), spec.NumCPUs > 0)
	put("cpuid.coresPerSocket", fmt.Sprint(spec.NumCoresPerSocket), spec.NumCoresPerSocket > 0)
	for _, option := range spec.ExtraConfig {
		put(option.GetOptionValue().Key, fmt.Sprint(option.GetOptionValue().Value), true)
	}
	home, refused := s.locate(vm.Config.Files.VmPathName)
	if refused != nil || len(changed) == 0 {
		return refused
	}
	return home.refusal(rewriteVMX(home.file(), changed))
}

// completeDisks writes the descriptors the simulator leaves empty when it makes a VM's disks.
func (s *server) completeDisks(vm *simulator.VirtualMachine) {
	for _, disk := range disksOf(vm) {
		p, refused := s.locate(fileOf(disk))
		if refused != nil {
			continue
		}
		if info, err := os.Stat(p.file()); err != nil || info.Size() > 0 {
			continue
		}
		d := newDisk(p.file(), "lsilogic", true, disk.CapacityInKB<<10/sector)
		if err := writeWhole(p.file(), strings.NewReader(d.text())); err == nil {
			_ = os.Truncate(d.files(p.file())[0], d.sectors()*sector)
		}
	}
}
