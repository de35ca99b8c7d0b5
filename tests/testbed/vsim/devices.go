package main

import (
	"fmt"
	"hash/fnv"
	"path"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/types"
)

// Keys and unit numbers are those that ESXi gives.
const (
	pciKey, scsiKey, sataKey, diskKey, cardKey = 100, 1000, 15000, 2000, 4000
	firstCardUnit                              = 7
)

// devices builds the hardware a VMX describes. A network or a disk that does not exist is no error here: ESXi
// registers such a VM, leaves the card unconnected and fails at power-on for want of the disk.
func (s *server) devices(vmx *settings, home place, host *simulator.HostSystem) ([]types.BaseVirtualDevice, *refusal) {
	devices := append([]types.BaseVirtualDevice(nil), esx.VirtualDevice...)
	cards, refused := s.cards(vmx, home, host)
	if refused != nil {
		return nil, refused
	}
	devices = append(devices, cards...)
	buses := []struct {
		name        string
		count       int
		units       int
		key, first  int32
		controllers func(key, bus int32, kind string) types.BaseVirtualDevice
	}{
		{"scsi", 4, 16, scsiKey, diskKey, scsiController},
		{"sata", 4, 30, sataKey, 16000, func(key, bus int32, _ string) types.BaseVirtualDevice {
			made := &types.VirtualAHCIController{}
			made.Key, made.BusNumber = key, bus
			made.DeviceInfo = &types.Description{Label: fmt.Sprintf("SATA controller %d", bus), Summary: "AHCI"}
			return made
		}},
		{"ide", 2, 2, 200, 3000, nil}, // its controllers are always there
	}
	disks := 0
	for _, bus := range buses {
		for b := 0; b < bus.count; b++ {
			name, key := fmt.Sprintf("%s%d", bus.name, b), bus.key+int32(b)
			if bus.controllers != nil {
				if !vmx.takeTrue(name + ".present") {
					continue
				}
				kind := vmx.take(name+".virtualDev", "lsilogic")
				controller := bus.controllers(key, int32(b), kind)
				if controller == nil {
					return nil, badVMX(name+".virtualDev", "%s.virtualDev is %q, which is no controller", name, kind)
				}
				devices = append(devices, controller)
			}
			for unit := 0; unit < bus.units; unit++ {
				device, refused := s.storageDevice(vmx, fmt.Sprintf("%s:%d", name, unit), home)
				if refused != nil {
					return nil, refused
				}
				if device == nil {
					continue
				}
				number := int32(unit)
				d := device.GetVirtualDevice()
				d.Key, d.ControllerKey, d.UnitNumber = bus.first+int32(b*bus.units+unit), key, &number
				if _, ok := device.(*types.VirtualDisk); ok {
					disks++
					d.DeviceInfo.GetDescription().Label = fmt.Sprintf("Hard disk %d", disks)
				}
				devices = append(devices, device)
			}
		}
	}
	return devices, nil
}

func scsiController(key, bus int32, kind string) types.BaseVirtualDevice {
	base := types.VirtualSCSIController{SharedBus: types.VirtualSCSISharingNoSharing, ScsiCtlrUnitNumber: 7}
	pci := int32(pciKey)
	base.Key, base.BusNumber, base.ControllerKey = key, bus, pci
	base.DeviceInfo = &types.Description{Label: fmt.Sprintf("SCSI controller %d", bus), Summary: kind}
	switch strings.ToLower(kind) {
	case "lsilogic":
		return &types.VirtualLsiLogicController{VirtualSCSIController: base}
	case "lsisas1068":
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: base}
	case "buslogic":
		return &types.VirtualBusLogicController{VirtualSCSIController: base}
	case "pvscsi":
		return &types.ParaVirtualSCSIController{VirtualSCSIController: base}
	}
	return nil
}

// storageDevice is the disk or CD drive on one unit, nil if there is none.
func (s *server) storageDevice(vmx *settings, unit string, home place) (types.BaseVirtualDevice, *refusal) {
	if !vmx.takeTrue(unit + ".present") {
		return nil, nil
	}
	name := vmx.take(unit+".fileName", "")
	kind := strings.ToLower(vmx.take(unit+".deviceType", "disk"))
	mode := vmx.take(unit+".mode", "persistent")
	switch kind {
	case "disk", "scsi-harddisk", "ata-harddisk", "sata-harddisk":
	default:
		drive := &types.VirtualCdrom{}
		drive.DeviceInfo = &types.Description{Label: "CD/DVD drive", Summary: name}
		drive.Backing = &types.VirtualCdromRemoteAtapiBackingInfo{}
		return drive, nil
	}
	if name == "" {
		return nil, badVMX(unit+".fileName", "%s is a disk without a file", unit)
	}
	switch types.VirtualDiskMode(strings.ReplaceAll(strings.ToLower(mode), "-", "_")) {
	case types.VirtualDiskModePersistent, types.VirtualDiskModeNonpersistent, types.VirtualDiskModeUndoable,
		"independent_persistent", "independent_nonpersistent", types.VirtualDiskModeAppend:
	default:
		return nil, badVMX(unit+".mode", "%s.mode is %q", unit, mode)
	}
	return s.diskDevice(s.attachment(name, home), strings.ReplaceAll(mode, "-", "_")), nil
}

// attachment is the API's spelling of a disk's name in a VMX: beside it, on a named datastore or below /vmfs/volumes.
func (s *server) attachment(name string, home place) string {
	if p, ok := s.volume(name, home.store.name, path.Dir(home.path)); ok {
		return p.String()
	}
	return name
}

func (s *server) diskDevice(file, mode string) *types.VirtualDisk {
	disk := &types.VirtualDisk{}
	backing := s.backing(file, mode)
	disk.Backing = backing
	disk.DeviceInfo = &types.Description{}
	disk.Shares = &types.SharesInfo{Shares: 1000, Level: types.SharesLevelNormal}
	if p, refused := s.locate(file); refused == nil {
		if d, err := readDescriptor(p.file()); err == nil {
			disk.CapacityInBytes, disk.CapacityInKB = d.sectors()*sector, d.sectors()*sector>>10
			disk.DeviceInfo.GetDescription().Summary = fmt.Sprintf("%d KB", disk.CapacityInKB)
		}
	}
	return disk
}

// backing follows the chain of parents as far as it leads.
func (s *server) backing(file, mode string) *types.VirtualDiskFlatVer2BackingInfo {
	made := &types.VirtualDiskFlatVer2BackingInfo{
		DiskMode: mode, ThinProvisioned: types.NewBool(false), Split: types.NewBool(false),
		WriteThrough: types.NewBool(false), EagerlyScrub: types.NewBool(false), DigestEnabled: types.NewBool(false),
	}
	made.FileName = file
	p, refused := s.locate(file)
	if refused != nil {
		return made
	}
	made.Datastore = &p.store.object.Self
	made.Uuid = stableUUID("disk " + file)
	if d, err := readDescriptor(p.file()); err == nil {
		made.ThinProvisioned = types.NewBool(d.thin)
		if parent, ok := s.parentOf(p, d); ok {
			made.Parent = s.backing(parent.String(), mode)
			made.DeltaDiskFormat = "redoLogFormat"
		}
	}
	return made
}

func (s *server) cards(vmx *settings, home place, host *simulator.HostSystem) ([]types.BaseVirtualDevice, *refusal) {
	var made []types.BaseVirtualDevice
	for slot := int32(0); slot < 10; slot++ {
		key := fmt.Sprintf("ethernet%d.", slot)
		if !vmx.takeTrue(key + "present") {
			continue
		}
		card := types.VirtualEthernetCard{WakeOnLanEnabled: types.NewBool(true)}
		unit, name := firstCardUnit+slot, vmx.take(key+"networkName", "VM Network")
		card.Key, card.ControllerKey, card.UnitNumber = cardKey+slot, pciKey, &unit
		card.DeviceInfo = &types.Description{Label: fmt.Sprintf("Network adapter %d", slot+1), Summary: name}
		backing := &types.VirtualEthernetCardNetworkBackingInfo{}
		backing.DeviceName = name
		card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true}
		if network := simulator.Map.FindByName(name, host.Network); network != nil {
			self := network.Reference()
			backing.Network = &self
			card.Connectable.StartConnected = !strings.EqualFold(vmx.take(key+"startConnected", "TRUE"), "FALSE")
			card.Connectable.Connected = card.Connectable.StartConnected
		}
		card.Backing = backing
		switch kind := strings.ToLower(vmx.take(key+"addressType", "generated")); kind {
		case "static":
			card.AddressType = string(types.VirtualEthernetCardMacTypeManual)
			card.MacAddress = strings.ToLower(vmx.take(key+"address", ""))
		case "generated", "vpx":
			card.AddressType = string(types.VirtualEthernetCardMacTypeGenerated)
			card.MacAddress = strings.ToLower(vmx.take(key+"generatedAddress", ""))
			if card.MacAddress == "" {
				card.MacAddress = s.generateMAC(fmt.Sprintf("%s %s#%d", home.store.directory, home.path, slot))
			}
		default:
			return nil, badVMX(key+"addressType", "%saddressType is %q", key, kind)
		}
		device := cardModel(vmx.take(key+"virtualDev", "vlance"), card)
		if device == nil {
			return nil, badVMX(key+"virtualDev", "%svirtualDev is no network card", key)
		}
		made = append(made, device)
	}
	return made, nil
}

func cardModel(name string, card types.VirtualEthernetCard) types.BaseVirtualDevice {
	switch strings.ToLower(name) {
	case "vmxnet3":
		return &types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: card}}
	case "vmxnet":
		return &types.VirtualVmxnet2{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: card}}
	case "e1000":
		return &types.VirtualE1000{VirtualEthernetCard: card}
	case "e1000e":
		return &types.VirtualE1000e{VirtualEthernetCard: card}
	case "vlance":
		return &types.VirtualPCNet32{VirtualEthernetCard: card}
	}
	return nil
}

// generateMAC hashes the place of the card, as ESXi does, so that no two hosts on one datastore make the same one.
func (s *server) generateMAC(owner string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(owner))
	for v := hash.Sum32(); ; v++ {
		mac := fmt.Sprintf("00:0c:29:%02x:%02x:%02x", byte(v>>16), byte(v>>8), byte(v))
		if other, taken := s.macs[mac]; !taken || other == owner {
			s.macs[mac] = owner
			return mac
		}
	}
}

// cardsOf are a VM's network cards in slot order.
func cardsOf(vm *simulator.VirtualMachine) []*types.VirtualEthernetCard {
	var found []*types.VirtualEthernetCard
	for _, device := range vm.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			found = append(found, card.GetVirtualEthernetCard())
		}
	}
	return found
}

func disksOf(vm *simulator.VirtualMachine) []*types.VirtualDisk {
	var found []*types.VirtualDisk
	for _, device := range vm.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			found = append(found, disk)
		}
	}
	return found
}

// fileOf is the datastore path of a disk.
func fileOf(disk *types.VirtualDisk) string {
	if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return backing.GetVirtualDeviceFileBackingInfo().FileName
	}
	return ""
}
