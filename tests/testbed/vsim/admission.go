package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// usedMB is the RAM in use on a host: its own and that of the VMs that run.
func usedMB(host ref) int64 {
	used := int64(hypervisorMB)
	for _, vm := range allVMs() {
		if *vm.Runtime.Host == host && vm.Runtime.PowerState == on {
			used += int64(vm.Config.Hardware.MemoryMB)
		}
	}
	return used
}

// account publishes a host's live figures.
func (s *server) account(host *simulator.HostSystem) {
	mhz := int32(100)
	for _, vm := range allVMs() {
		if *vm.Runtime.Host == host.Self && vm.Runtime.PowerState == on {
			mhz += 50 * vm.Config.Hardware.NumCPU
		}
	}
	update(host,
		change{Name: "summary.quickStats.overallMemoryUsage", Val: int32(usedMB(host.Self))},
		change{Name: "summary.quickStats.overallCpuUsage", Val: mhz})
}

// admitVM refuses what does not fit into the host's RAM.
func (s *server) admitVM(vm *simulator.VirtualMachine) *refusal {
	return s.admitMemory(hostOf(vm), int64(vm.Config.Hardware.MemoryMB))
}

func (s *server) admitMemory(host *simulator.HostSystem, wanted int64) *refusal {
	free := host.Hardware.MemorySize>>20 - usedMB(host.Self)
	if !s.admit || wanted <= free {
		return nil
	}
	return refuse(&types.InsufficientMemoryResourcesFault{Unreserved: free << 20, Requested: wanted << 20},
		"The host does not have sufficient memory resources to satisfy the reservation (%d MB of %d MB).", wanted, free)
}

// mayRun: nothing is started on a host in maintenance.
func (s *server) mayRun(vm *simulator.VirtualMachine) *refusal {
	if hostOf(vm).Runtime.InMaintenanceMode {
		return refuse(&types.InvalidState{}, "The operation is not allowed in the current state: the host is in maintenance mode.")
	}
	return nil
}

func connected(host *simulator.HostSystem) *refusal {
	if host.Runtime.ConnectionState == types.HostSystemConnectionStateConnected {
		return nil
	}
	return refuse(&types.HostNotConnected{}, "Unable to communicate with the remote host %s, since it is disconnected.", host.Name)
}

// connect changes what a vCenter knows of a host and, with it, of its VMs.
func (s *server) connect(host *simulator.HostSystem, state types.HostSystemConnectionState) {
	update(host,
		change{Name: "runtime.connectionState", Val: state},
		change{Name: "summary.runtime.connectionState", Val: state})
	seen := types.VirtualMachineConnectionStateConnected
	if state != types.HostSystemConnectionStateConnected {
		seen = types.VirtualMachineConnectionStateDisconnected
	}
	for _, vm := range allVMs() {
		if *vm.Runtime.Host == host.Self {
			update(vm,
				change{Name: "runtime.connectionState", Val: seen},
				change{Name: "summary.runtime.connectionState", Val: seen})
		}
	}
}

func setMaintenance(host *simulator.HostSystem, maintenance bool) {
	update(host,
		change{Name: "runtime.inMaintenanceMode", Val: maintenance},
		change{Name: "summary.runtime.inMaintenanceMode", Val: maintenance})
}

// enterMaintenance does not wait for running VMs to go, as a host without DRS would until its timeout: it gives up.
func (s *server) enterMaintenance(req *types.EnterMaintenanceMode_Task) (*job, *refusal) {
	return s.maintenanceJob(req.This, true), nil
}

func (s *server) exitMaintenance(req *types.ExitMaintenanceMode_Task) (*job, *refusal) {
	return s.maintenanceJob(req.This, false), nil
}

func (s *server) maintenanceJob(this ref, maintenance bool) *job {
	return &job{entity: &this, work: s.locked(func() (types.AnyType, *refusal) {
		host := simulator.Map.Get(this).(*simulator.HostSystem)
		if refused := connected(host); refused != nil {
			return nil, refused
		}
		if maintenance && usedMB(this) > hypervisorMB {
			return nil, refuse(&types.Timedout{}, "The operation timed out: virtual machines still run on %s.", host.Name)
		}
		setMaintenance(host, maintenance)
		return nil, nil
	})}
}
