package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	on        = types.VirtualMachinePowerStatePoweredOn
	off       = types.VirtualMachinePowerStatePoweredOff
	suspended = types.VirtualMachinePowerStateSuspended
)

func wrongPower(vm *simulator.VirtualMachine, wanted types.VirtualMachinePowerState) *refusal {
	return refuse(&types.InvalidPowerState{RequestedState: wanted, ExistingState: vm.Runtime.PowerState},
		"The attempted operation cannot be performed in the current state (%s).", vm.Runtime.PowerState)
}

func (s *server) powerOn(req *types.PowerOnVM_Task) (*job, *refusal) {
	j := s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		if vm.Runtime.PowerState == on {
			return nil, wrongPower(vm, on)
		}
		for _, check := range []func(*simulator.VirtualMachine) *refusal{s.mayRun, s.canBoot, s.lockDisks, s.admitVM} {
			if refused := check(vm); refused != nil {
				s.unlockDisks(vm)
				return nil, refused
			}
		}
		s.switchPower(vm, on)
		return nil, nil
	})
	switchOn := j.work
	j.work = func(ctx context.Context) (types.AnyType, *refusal) {
		if refused := s.askBeforePowerOn(ctx, req.This); refused != nil {
			return nil, refused
		}
		return switchOn(ctx)
	}
	return j, nil
}

func (s *server) powerOff(req *types.PowerOffVM_Task) (*job, *refusal) {
	return s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		if vm.Runtime.PowerState == off {
			return nil, wrongPower(vm, off)
		}
		s.switchPower(vm, off)
		return nil, nil
	}), nil
}

// suspend writes the guest's RAM to a file: the host has it back, and the disks are nobody's.
func (s *server) suspend(req *types.SuspendVM_Task) (*job, *refusal) {
	return s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		if vm.Runtime.PowerState != on {
			return nil, wrongPower(vm, suspended)
		}
		s.switchPower(vm, suspended)
		return nil, nil
	}), nil
}

// reset restarts the guest; the VM stays on, with its locks and its RAM.
func (s *server) reset(req *types.ResetVM_Task) (*job, *refusal) {
	return s.vmJob(req.This, func(vm *simulator.VirtualMachine) (types.AnyType, *refusal) {
		if vm.Runtime.PowerState != on {
			return nil, wrongPower(vm, on)
		}
		s.tell(vm, "off")
		s.tell(vm, "on")
		return nil, nil
	}), nil
}

// shutdownGuest asks the guest and returns; the guest takes as long as a task.
func (s *server) shutdownGuest(req *types.ShutdownGuest) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, refused := findVM(req.This)
	if refused != nil {
		return refused
	}
	if vm.Runtime.PowerState != on {
		return wrongPower(vm, on)
	}
	if refused := connected(hostOf(vm)); refused != nil {
		return refused
	}
	if vm.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return refuse(&types.ToolsUnavailable{}, "Cannot complete operation because VMware Tools is not running in this "+
			"virtual machine.")
	}
	time.AfterFunc(s.taskTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if vm.Runtime.PowerState == on {
			s.switchPower(vm, off)
		}
	})
	return nil
}

// switchPower makes the change known: to property collectors, to the host's figures, to the power socket.
func (s *server) switchPower(vm *simulator.VirtualMachine, state types.VirtualMachinePowerState) {
	if state != on {
		s.unlockDisks(vm)
	}
	s.showPower(vm, state)
	if state == on {
		s.tell(vm, "on")
	} else {
		s.tell(vm, "off")
	}
}

func (s *server) showPower(vm *simulator.VirtualMachine, state types.VirtualMachinePowerState) {
	guest := types.GuestInfo{
		ToolsStatus:        types.VirtualMachineToolsStatusToolsNotRunning,
		ToolsRunningStatus: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning),
		GuestState:         "notRunning",
	}
	var boot types.AnyType
	if state == on {
		guest.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
		guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
		guest.GuestState = "running"
		boot = time.Now()
		for _, card := range cardsOf(vm) {
			guest.Net = append(guest.Net, types.GuestNicInfo{
				Network: networkOf(card), MacAddress: card.MacAddress, DeviceConfigId: card.Key,
				Connected: isConnected(card),
			})
		}
	}
	update(vm,
		change{Name: "runtime.powerState", Val: state},
		change{Name: "summary.runtime.powerState", Val: state},
		change{Name: "runtime.bootTime", Val: boot},
		change{Name: "summary.runtime.bootTime", Val: boot},
		change{Name: "guest", Val: &guest})
	s.account(hostOf(vm))
	s.remember()
}

// powerEvent is what the power socket gets; macs[i] is on networks[i]. Cards that are not connected are left out.
type powerEvent struct {
	Event    string   `json:"event"`
	VM       string   `json:"vm"`
	MACs     []string `json:"macs"`
	Networks []string `json:"networks"`
}

func (s *server) tell(vm *simulator.VirtualMachine, event string) {
	if s.powerSocket == "" {
		return
	}
	told := powerEvent{Event: event, VM: vm.Name, MACs: []string{}, Networks: []string{}}
	for _, card := range cardsOf(vm) {
		if isConnected(card) {
			told.MACs = append(told.MACs, card.MacAddress)
			told.Networks = append(told.Networks, networkOf(card))
		}
	}
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.powerSocket, Net: "unixgram"})
	if err != nil {
		return // nobody listens
	}
	defer connection.Close()
	message, _ := json.Marshal(told)
	_ = connection.SetWriteDeadline(time.Now().Add(time.Second)) // a full socket shall not hold the host
	_, _ = connection.Write(message)
}

func isConnected(card *types.VirtualEthernetCard) bool {
	return card.Connectable != nil && card.Connectable.Connected
}

func networkOf(card *types.VirtualEthernetCard) string {
	if backing, ok := card.Backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok {
		return backing.DeviceName
	}
	return ""
}

// canBoot is what ESXi finds out only when it starts the VM.
func (s *server) canBoot(vm *simulator.VirtualMachine) *refusal {
	hardware := vm.Config.Hardware
	if hardware.MemoryMB%4 != 0 {
		return badVMX("memSize", "memSize is %d, not a multiple of 4", hardware.MemoryMB)
	}
	if hardware.NumCoresPerSocket > 0 && hardware.NumCPU%hardware.NumCoresPerSocket != 0 {
		return badVMX("numvcpus", "%d CPUs cannot be sockets of %d cores", hardware.NumCPU, hardware.NumCoresPerSocket)
	}
	if threads := hostOf(vm).Summary.Hardware.NumCpuThreads; hardware.NumCPU > int32(threads) {
		return refuse(&types.NotEnoughCpus{NumCpuDest: int32(threads), NumCpuVm: hardware.NumCPU},
			"The host has %d logical CPUs, the virtual machine wants %d.", threads, hardware.NumCPU)
	}
	for _, card := range cardsOf(vm) {
		if card.AddressType != string(types.VirtualEthernetCardMacTypeManual) {
			continue
		}
		slot := card.Key - cardKey
		if problem := macProblem(card.MacAddress); problem != "" &&
			!strings.EqualFold(extraConfig(vm, fmt.Sprintf("ethernet%d.checkMACAddress", slot)), "FALSE") {
			message := fmt.Sprintf("MAC address %q of ethernet%d is not an allowed static Ethernet address: it %s.",
				card.MacAddress, slot, problem)
			return refuse(&types.GenericVmConfigFault{Reason: message}, "%s", message)
		}
	}
	return nil
}

// macProblem tells why ESXi would not start a card with this static address: of VMware's own ranges only
// 00:50:56:00-3f is for static use.
func macProblem(mac string) string {
	address, err := net.ParseMAC(mac)
	switch {
	case err != nil || len(address) != 6:
		return "is no MAC address"
	case address[0]&1 != 0:
		return "is a multicast address"
	case strings.HasPrefix(mac, "00:0c:29:"), strings.HasPrefix(mac, "00:05:69:"),
		strings.HasPrefix(mac, "00:50:56:") && address[3] > 0x3f:
		return "conflicts with VMware reserved MACs"
	}
	return ""
}

func extraConfig(vm *simulator.VirtualMachine, key string) string {
	for _, option := range vm.Config.ExtraConfig {
		if value := option.GetOptionValue(); strings.EqualFold(value.Key, key) {
			return fmt.Sprint(value.Value)
		}
	}
	return ""
}
