package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func vmsOf(host *simulator.HostSystem) []*simulator.VirtualMachine {
	var found []*simulator.VirtualMachine
	for _, vm := range allVMs() {
		if *vm.Runtime.Host == host.Self {
			found = append(found, vm)
		}
	}
	return found
}

// rebootHost ends what ran on a vCenter's host; of a stateless one no VM is registered any more.
func (s *server) rebootHost(host *simulator.HostSystem, stateless bool) {
	for _, vm := range vmsOf(host) {
		if vm.Runtime.PowerState == on {
			s.switchPower(vm, off)
		}
		if stateless {
			s.drop(vm)
		}
	}
	booted := time.Now().UTC()
	update(host,
		change{Name: "runtime.bootTime", Val: booted},
		change{Name: "summary.runtime.bootTime", Val: booted})
}

// readdHost removes a host from its vCenter and adds it again: it and its VMs have other ids, and whatever runs runs on.
func (s *server) readdHost(old *simulator.HostSystem) *refusal {
	kept := vmsOf(old)
	for _, vm := range kept {
		s.drop(vm)
	}
	made := *old
	runtime := made.Runtime
	made.Summary.Runtime = &runtime
	made.Vm = nil
	cr := computeResource(old)
	whole := simulator.Map.Get(cr.Self) // the cluster, if it is one
	update(whole, change{Name: "host", Val: without(cr.Host, old.Self)})
	simulator.Map.Remove(old.Self)
	simulator.Map.NewEntity(&made)
	made.Summary.Host = &made.Self
	simulator.Map.Put(&made)
	update(whole, change{Name: "host", Val: with(cr.Host, made.Self)})
	for i := range s.hosts {
		if s.hosts[i] == old {
			s.hosts[i] = &made
		}
	}
	for _, st := range s.stores {
		mounts := append([]types.DatastoreHostMount(nil), st.object.Host...)
		for i := range mounts {
			if mounts[i].Key == old.Self {
				mounts[i].Key = made.Self
			}
		}
		update(st.object, change{Name: "host", Val: mounts})
	}
	for _, r := range made.Network {
		if network, ok := simulator.Map.Get(r).(*mo.Network); ok {
			update(network, change{Name: "host", Val: with(without(network.Host, old.Self), made.Self)})
		}
	}
	folder := simulator.Map.Any("Datacenter").(*simulator.Datacenter).VmFolder
	for _, vm := range kept {
		if refused := s.discover(vm, folder, &made); refused != nil {
			return refused
		}
	}
	return nil
}

// discover shows a VM that a host brings with it.
func (s *server) discover(known *simulator.VirtualMachine, folder ref, host *simulator.HostSystem) *refusal {
	home, refused := s.locate(known.Config.Files.VmPathName)
	if refused != nil {
		return refused
	}
	found, refused := s.register(&types.RegisterVM_Task{
		This: folder, Path: home.String(), Name: known.Name, Host: &host.Self, Pool: computeResource(host).ResourcePool,
	}, home)
	if refused != nil {
		return refused
	}
	vm := simulator.Map.Get(found.(ref)).(*simulator.VirtualMachine)
	s.locks[vm.Self] = s.locks[known.Self]
	delete(s.locks, known.Self)
	if known.Runtime.PowerState != off {
		s.showPower(vm, known.Runtime.PowerState)
	}
	return nil
}

func (s *server) networksNamed(names []string) []ref {
	found := []ref{}
	for _, entity := range simulator.Map.All("Network") {
		if network, ok := entity.(*mo.Network); ok && contains(names, network.Name) {
			found = append(found, network.Self)
		}
	}
	return found
}

func (s *server) storesNamed(names []string) []ref {
	found := []ref{}
	for _, st := range s.storeList {
		if contains(names, st.name) {
			found = append(found, st.object.Self)
		}
	}
	return found
}

func contains(names []string, wanted string) bool {
	for _, name := range names {
		if name == wanted {
			return true
		}
	}
	return false
}
