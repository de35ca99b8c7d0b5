package main

import (
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type (
	ref    = types.ManagedObjectReference
	change = types.PropertyChange
)

// hostSpec is a host to make.
type hostSpec struct {
	name     string
	memoryMB int64
	cores    int16
	mhz      int32
	nested   bool // lends its hardware virtualisation to VMs
}

// store is a datastore: a directory that several processes may share.
type store struct {
	name, directory string
	object          *simulator.Datastore
	measuring       sync.Mutex
}

// hypervisorMB is what an empty host uses of its RAM.
const hypervisorMB = 1024

func newServer(o options) *server {
	s := &server{
		options: o,
		started: time.Now().UTC(),
		stores:  map[string]*store{},
		locks:   map[ref][]*os.File{},
		busy:    map[ref]ref{},
		cancels: map[ref]func(){},
		macs:    map[string]string{},
		toAsk:   map[string]questionOrder{},
		open:    map[ref]*open{},
		rules:   rules{calls: map[string]int{}},
	}
	s.pace.set(o.copyMBs)
	simulator.SessionIdleTimeout = o.idle
	var model *simulator.Model
	if o.esx {
		model = simulator.ESX()
	} else {
		model = simulator.VPX()
		model.Cluster, model.Host, model.Portgroup = 0, len(o.hostSpecs), 0
		if o.cluster != "" {
			model.Cluster, model.ClusterHost, model.Host = 1, len(o.hostSpecs), 0
		}
	}
	model.Machine, model.Datastore = 0, 0
	model.ServiceContent.About.ApiVersion = o.apiVersion
	if err := model.Create(); err != nil {
		log.Fatalf("the simulator's inventory: %s", err)
	}
	s.service = model.Service
	s.service.Listen = &url.URL{User: url.UserPassword(o.user, o.password)}
	s.service.RegisterSDK(simulator.Map)

	for _, entity := range simulator.Map.All("HostSystem") {
		s.hosts = append(s.hosts, entity.(*simulator.HostSystem))
	}
	sort.Slice(s.hosts, func(i, j int) bool { return number(s.hosts[i].Self) < number(s.hosts[j].Self) })
	for i, host := range s.hosts {
		s.describeHost(host, o.hostSpecs[i])
	}
	s.describeComputeResources()
	dc := simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	if o.esx {
		dc.Datastore = nil // the template's, which lead nowhere
	}
	for i, name := range o.networks {
		s.addNetwork(dc, i, name)
	}
	for i, st := range o.storeList {
		s.addStore(dc, i, st)
	}
	return s
}

// number is the counter in the simulator's ids, the order in which objects were made.
func number(r ref) int {
	n, _ := strconv.Atoi(r.Value[strings.LastIndex(r.Value, "-")+1:])
	return n
}

// stableUUID is the same for the same name in every run.
func stableUUID(name string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String()
}

func (s *server) describeHost(host *simulator.HostSystem, spec hostSpec) {
	id := stableUUID("host " + spec.name)
	host.Name, host.Summary.Config.Name = spec.name, spec.name
	host.Summary.Host = &host.Self
	host.Hardware.SystemInfo.Uuid, host.Summary.Hardware.Uuid = id, id
	host.Hardware.MemorySize, host.Summary.Hardware.MemorySize = spec.memoryMB<<20, spec.memoryMB<<20
	host.Hardware.CpuInfo.NumCpuPackages, host.Summary.Hardware.NumCpuPkgs = 1, 1
	host.Hardware.CpuInfo.NumCpuCores, host.Summary.Hardware.NumCpuCores = spec.cores, spec.cores
	host.Hardware.CpuInfo.NumCpuThreads, host.Summary.Hardware.NumCpuThreads = 2*spec.cores, 2*spec.cores
	host.Hardware.CpuInfo.Hz, host.Summary.Hardware.CpuMhz = int64(spec.mhz)*1e6, spec.mhz
	host.Summary.QuickStats.OverallMemoryUsage = hypervisorMB
	host.Summary.QuickStats.OverallCpuUsage = 100
	host.Runtime.ConnectionState = types.HostSystemConnectionStateConnected
	host.Runtime.PowerState = types.HostSystemPowerStatePoweredOn
	host.Runtime.BootTime = &s.started
	capability := types.HostCapability{}
	if host.Capability != nil {
		capability = *host.Capability // the template shares it between hosts
	}
	capability.NestedHVSupported = types.NewBool(spec.nested)
	host.Capability = &capability
	host.Datastore = nil
	host.Network = append([]ref(nil), host.Network...) // the template shares it between hosts
}

func (s *server) describeComputeResources() {
	for _, host := range s.hosts {
		cr := computeResource(host)
		cr.Datastore = nil
		cr.Network = append([]ref(nil), cr.Network...)
		sum := cr.Summary.GetComputeResourceSummary()
		if len(cr.Host) == 1 && s.cluster == "" {
			cr.Name = host.Name
		} else {
			cr.Name = s.cluster
		}
		*sum = types.ComputeResourceSummary{OverallStatus: types.ManagedEntityStatusGreen}
		for _, member := range cr.Host {
			hw := simulator.Map.Get(member).(*simulator.HostSystem).Summary.Hardware
			mhz := hw.CpuMhz * int32(hw.NumCpuCores)
			sum.TotalMemory += hw.MemorySize
			sum.EffectiveMemory += hw.MemorySize >> 20 // in MB, unlike the other one
			sum.TotalCpu += mhz
			sum.EffectiveCpu += mhz
			sum.NumCpuCores += hw.NumCpuCores
			sum.NumCpuThreads += hw.NumCpuThreads
			sum.NumHosts++
			sum.NumEffectiveHosts++
		}
	}
}

// computeResource is what the host belongs to, standing alone or in a cluster.
func computeResource(host *simulator.HostSystem) *mo.ComputeResource {
	switch parent := simulator.Map.Get(*host.Parent).(type) {
	case *mo.ComputeResource:
		return parent
	case *simulator.ClusterComputeResource:
		return &parent.ComputeResource
	}
	panic("host " + host.Name + " belongs to nothing")
}

func (s *server) addNetwork(dc *simulator.Datacenter, i int, name string) {
	network := &mo.Network{Name: name}
	network.ManagedEntity.Name = name
	network.Self = ref{Type: "Network", Value: fmt.Sprintf("network-%d", 900+i)}
	if s.esx {
		network.Self.Value = "HaNetwork-" + name
	}
	network.Summary = &types.NetworkSummary{Network: &network.Self, Name: name, Accessible: true}
	putChild(dc.NetworkFolder, network)
	dc.Network = append(dc.Network, network.Self)
	for _, host := range s.hosts {
		network.Host = append(network.Host, host.Self)
		host.Network = append(host.Network, network.Self)
		cr := computeResource(host)
		simulator.Map.AddReference(cr, &cr.Network, network.Self)
	}
}

func (s *server) addStore(dc *simulator.Datacenter, i int, st *store) {
	if info, err := os.Stat(st.directory); err != nil || !info.IsDir() {
		log.Fatalf("-datastores: %s is not a directory", st.directory)
	}
	ds := &simulator.Datastore{}
	st.object = ds
	s.stores[st.name] = st
	ds.Name = st.name
	ds.Self = ref{Type: "Datastore", Value: fmt.Sprintf("datastore-%d", 900+i)}
	info := &types.NasDatastoreInfo{Nas: &types.HostNasVolume{RemoteHost: "nas.test", RemotePath: st.directory}}
	info.Name, info.Url = st.name, st.directory // the simulator's own file functions need the directory here
	info.Nas.Name, info.Nas.Type = st.name, "NFS"
	ds.Info = info
	ds.Summary = types.DatastoreSummary{
		Datastore: &ds.Self, Name: st.name, Url: info.Url, Type: "NFS", Accessible: true,
		MultipleHostAccess: types.NewBool(len(s.hosts) > 1),
		MaintenanceMode:    string(types.DatastoreSummaryMaintenanceModeStateNormal),
	}
	ds.Capability = types.DatastoreCapability{
		DirectoryHierarchySupported: true, PerFileThinProvisioningSupported: true,
		TopLevelDirectoryCreateSupported: types.NewBool(true),
	}
	browser := &simulator.HostDatastoreBrowser{}
	browser.Datastore = []ref{ds.Self}
	ds.Browser = simulator.Map.Put(browser).Reference()
	for _, host := range s.hosts {
		ds.Host = append(ds.Host, types.DatastoreHostMount{
			Key: host.Self,
			MountInfo: types.HostMountInfo{
				Path: "/vmfs/volumes/" + st.name, AccessMode: string(types.HostMountModeReadWrite),
				Mounted: types.NewBool(true), Accessible: types.NewBool(true),
			},
		})
		host.Datastore = append(host.Datastore, ds.Self)
		cr := computeResource(host)
		simulator.Map.AddReference(cr, &cr.Datastore, ds.Self)
	}
	putChild(dc.DatastoreFolder, ds)
	dc.Datastore = append(dc.Datastore, ds.Self)
	s.measure(st)
}

// putChild makes an object visible. Views look at the folder when they hear of the object, so it is put there first.
func putChild(folder ref, child mo.Entity) {
	parent := simulator.Map.Get(folder).(*simulator.Folder)
	simulator.Map.AppendReference(parent, &parent.ChildEntity, child.Reference())
	simulator.Map.PutEntity(parent, child)
}

// update changes properties under the object's lock and tells the property collectors.
func update(object mo.Reference, changes ...change) {
	simulator.Map.WithLock(object.Reference(), func() { simulator.Map.Update(object, changes) })
}

// without is a new list, because property collectors may still be sending the old one.
func without(list []ref, gone ref) []ref {
	left := []ref{}
	for _, r := range list {
		if r != gone {
			left = append(left, r)
		}
	}
	return left
}

func with(list []ref, more ref) []ref {
	return append(without(list, more), more)
}

// notice is measure for a host that happens to look. A real one does so every now and then.
func (s *server) notice(st *store) {
	if !s.staleSpace {
		s.measure(st)
	}
}

// measure publishes a datastore's capacity and free space. Other processes write there too, so nothing is counted:
// the blocks in use are looked up.
func (s *server) measure(st *store) {
	// One at a time, so that an older look never overwrites a newer one.
	st.measuring.Lock()
	defer st.measuring.Unlock()
	capacity, free := s.space(st)
	info := *st.object.Info.(*types.NasDatastoreInfo)
	info.FreeSpace, info.MaxFileSize = free, capacity
	if st.object.Summary.FreeSpace == free && st.object.Summary.Capacity == capacity {
		return
	}
	update(st.object,
		change{Name: "summary.capacity", Val: capacity},
		change{Name: "summary.freeSpace", Val: free},
		change{Name: "info", Val: &info})
}

// space is the capacity and the free bytes of a datastore.
func (s *server) space(st *store) (capacity, free int64) {
	if s.capacity == 0 {
		return fileSystemSpace(st.directory)
	}
	used := int64(0)
	_ = filepath.Walk(st.directory, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			used += blocks(info)
		}
		return nil // a file that vanished meanwhile uses nothing
	})
	if used > s.capacity {
		used = s.capacity
	}
	return s.capacity, s.capacity - used
}
