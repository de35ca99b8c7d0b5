package main

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// A host that lost its power has its VMs when it comes back, and none of them runs. So the inventory is on disk
// before the call that changes it is answered. A stateless host has none: it lost them with its RAM.

// remembered is one VM in the -inventory file.
type remembered struct {
	Path string `json:"path"`
	Name string `json:"name"`
	Host string `json:"host"`
	Ran  bool   `json:"ran"`
}

// remember writes the file; the caller holds mu.
func (s *server) remember() {
	if s.inventory == "" {
		return
	}
	list := []remembered{}
	for _, vm := range allVMs() {
		list = append(list, remembered{
			Path: vm.Config.Files.VmPathName, Name: vm.Name, Host: hostOf(vm).Name, Ran: vm.Runtime.PowerState == on,
		})
	}
	content, _ := json.Marshal(list)
	if err := writeWhole(s.inventory, strings.NewReader(string(content))); err != nil {
		panic(err) // which the client is told: what it did would not survive
	}
}

// recall registers the VMs of the file. One whose VMX is gone or broken meanwhile is left out.
func (s *server) recall() error {
	content, err := os.ReadFile(s.inventory)
	if os.IsNotExist(err) {
		return nil
	}
	var list []remembered
	if err == nil {
		err = json.Unmarshal(content, &list)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.inventory
	s.inventory = "" // it stays as it is until all are back
	folder := simulator.Map.Any("Datacenter").(*simulator.Datacenter).VmFolder
	for _, known := range list {
		for _, host := range s.hosts {
			home, refused := s.locate(known.Path)
			if refused != nil || host.Name != known.Host {
				continue
			}
			made, refused := s.register(&types.RegisterVM_Task{
				This: folder, Path: known.Path, Name: known.Name, Host: &host.Self, Pool: computeResource(host).ResourcePool,
			}, home)
			if refused == nil && known.Ran {
				s.tell(simulator.Map.Get(made.(ref)).(*simulator.VirtualMachine), "off") // its guest ended with the host
			}
		}
	}
	for _, vm := range allVMs() {
		if s.stateless {
			s.drop(vm)
		}
	}
	s.inventory = file
	s.remember()
	return nil
}
