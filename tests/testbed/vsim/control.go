package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// hostOrder changes a host from outside the API, as a failing disk or an operator at the console would.
type hostOrder struct {
	Name        string `json:"name"`
	State       string `json:"state"` // connected | disconnected | notResponding
	Maintenance *bool  `json:"maintenance"`
	MemoryMB    int64  `json:"memory_mb"`
	Reboot      bool   `json:"reboot"`
	Stateless   bool   `json:"stateless"` // with reboot: it forgets its VMs
	Readd       bool   `json:"readd"`
	// What it has of the server's, by name; absent: as it is.
	Networks   []string `json:"networks"`
	Datastores []string `json:"datastores"`
}

// clockOrder sets the server's clock, as CurrentTime tells it, before or behind the real time.
type clockOrder struct {
	AheadS float64 `json:"ahead_s"`
}

// guestOrder is what VMware Tools in a guest say of its network cards (addresses by MAC), and whether they run at all.
type guestOrder struct {
	VM        string              `json:"vm"`
	Addresses map[string][]string `json:"addresses"`
	Tools     *bool               `json:"tools"`
}

// accountOrder changes the password; who is logged in stays so.
type accountOrder struct {
	Password string `json:"password"`
}

type hostReport struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Maintenance bool   `json:"maintenance"`
	MemoryMB    int64  `json:"memory_mb"`
	UsedMB      int64  `json:"used_mb"`
}

type vmReport struct {
	Name     string   `json:"name"`
	Path     string   `json:"path"`
	Power    string   `json:"power"`
	Host     string   `json:"host"`
	UUID     string   `json:"uuid"`
	MemoryMB int32    `json:"memory_mb"`
	MACs     []string `json:"macs"`
	Disks    []string `json:"disks"`
}

// control is /ctl/: the tests' side of the server, closed to anybody without the token.
func (s *server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ctl/rules", s.controlRules)
	mux.HandleFunc("/ctl/hosts", func(w http.ResponseWriter, r *http.Request) {
		var order hostOrder
		if decoded(w, r, &order) {
			s.orderHost(w, order)
		}
	})
	mux.HandleFunc("/ctl/guests", func(w http.ResponseWriter, r *http.Request) {
		var order guestOrder
		if decoded(w, r, &order) {
			s.orderGuest(w, order)
		}
	})
	mux.HandleFunc("/ctl/account", func(w http.ResponseWriter, r *http.Request) {
		var order accountOrder
		if decoded(w, r, &order) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.service.Listen = &url.URL{User: url.UserPassword(s.user, order.Password)}
			answer(w, "changed")
		}
	})
	mux.HandleFunc("/ctl/clock", func(w http.ResponseWriter, r *http.Request) {
		var order clockOrder
		if decoded(w, r, &order) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ahead = time.Duration(order.AheadS * float64(time.Second))
			answer(w, "changed")
		}
	})
	mux.HandleFunc("/ctl/questions", func(w http.ResponseWriter, r *http.Request) {
		var order questionOrder
		if decoded(w, r, &order) {
			s.orderQuestion(w, order)
		}
	})
	mux.HandleFunc("/ctl/answers", func(w http.ResponseWriter, r *http.Request) {
		var order answerOrder
		if decoded(w, r, &order) {
			s.orderAnswer(w, order)
		}
	})
	mux.HandleFunc("/ctl/pace", func(w http.ResponseWriter, r *http.Request) {
		var order paceOrder
		if decoded(w, r, &order) {
			s.orderPace(w, order)
		}
	})
	mux.HandleFunc("/ctl/sessions", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			s.expireSessions()
		}
		answer(w, len(s.sessions()))
	})
	mux.HandleFunc("/ctl/calls", func(w http.ResponseWriter, r *http.Request) {
		s.rules.mu.Lock()
		defer s.rules.mu.Unlock()
		answer(w, s.rules.calls)
	})
	mux.HandleFunc("/ctl/inventory", func(w http.ResponseWriter, r *http.Request) { answer(w, s.report()) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-Vsim-Control")
		if s.controlToken == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.controlToken)) != 1 {
			http.Error(w, "the header X-Vsim-Control does not carry the -control-token", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *server) controlRules(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodDelete {
		s.rules.mu.Lock()
		defer s.rules.mu.Unlock()
		s.rules.list = nil
		answer(w, "cleared")
		return
	}
	var made rule
	if !decoded(w, r, &made) {
		return
	}
	if problem := made.problem(); problem != "" {
		http.Error(w, problem, http.StatusBadRequest)
		return
	}
	s.rules.mu.Lock()
	defer s.rules.mu.Unlock()
	s.rules.list = append(s.rules.list, &made)
	answer(w, "added")
}

func (s *server) orderHost(w http.ResponseWriter, order hostOrder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, host := range s.hosts {
		if host.Name != order.Name {
			continue
		}
		if order.State != "" {
			switch state := types.HostSystemConnectionState(order.State); state {
			case types.HostSystemConnectionStateConnected, types.HostSystemConnectionStateDisconnected,
				types.HostSystemConnectionStateNotResponding:
				s.connect(host, state)
			default:
				http.Error(w, "a host cannot be "+order.State, http.StatusBadRequest)
				return
			}
		}
		if s.esx && (order.Reboot || order.Readd) {
			http.Error(w, "a standalone host is restarted by restarting its process", http.StatusBadRequest)
			return
		}
		if order.Reboot {
			s.rebootHost(host, order.Stateless)
		}
		if order.Readd {
			if refused := s.readdHost(host); refused != nil {
				http.Error(w, refused.message, http.StatusInternalServerError)
				return
			}
			host = s.hosts[i]
		}
		if order.Maintenance != nil {
			setMaintenance(host, *order.Maintenance)
		}
		if order.Networks != nil {
			update(host, change{Name: "network", Val: s.networksNamed(order.Networks)})
		}
		if order.Datastores != nil {
			update(host, change{Name: "datastore", Val: s.storesNamed(order.Datastores)})
		}
		if order.MemoryMB > 0 {
			update(host,
				change{Name: "hardware.memorySize", Val: order.MemoryMB << 20},
				change{Name: "summary.hardware.memorySize", Val: order.MemoryMB << 20})
		}
		answer(w, "changed")
		return
	}
	http.Error(w, "no host "+order.Name, http.StatusNotFound)
}

func (s *server) orderGuest(w http.ResponseWriter, order guestOrder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		if vm.Name != order.VM {
			continue
		}
		var cards []types.GuestNicInfo
		for mac, addresses := range order.Addresses {
			cards = append(cards, types.GuestNicInfo{MacAddress: mac, IpAddress: addresses, Connected: true})
		}
		if order.Addresses != nil {
			update(vm, change{Name: "guest.net", Val: cards})
		}
		if order.Tools != nil {
			status, running := types.VirtualMachineToolsStatusToolsNotRunning, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
			if *order.Tools {
				status, running = types.VirtualMachineToolsStatusToolsOk, types.VirtualMachineToolsRunningStatusGuestToolsRunning
			}
			update(vm,
				change{Name: "guest.toolsStatus", Val: status},
				change{Name: "guest.toolsRunningStatus", Val: string(running)})
		}
		answer(w, "changed")
		return
	}
	http.Error(w, "no VM "+order.VM, http.StatusNotFound)
}

// sessions are the keys of all live sessions.
func (s *server) sessions() []string {
	manager := simulator.Map.SessionManager().Self
	observer := simulator.Session{Registry: simulator.NewRegistry()}
	keys := []string{}
	for _, session := range observer.Get(manager).(*simulator.SessionManager).SessionList {
		keys = append(keys, session.Key)
	}
	return keys
}

func (s *server) expireSessions() {
	simulator.Map.SessionManager().TerminateSession(
		inProcess(), &types.TerminateSession{SessionId: s.sessions()})
}

// inProcess is a call context that belongs to no client.
func inProcess() *simulator.Context {
	return &simulator.Context{
		Context: context.Background(),
		Map:     simulator.Map,
		Session: &simulator.Session{Registry: simulator.NewRegistry()},
	}
}

func (s *server) report() interface{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := []hostReport{}
	for _, host := range s.hosts {
		hosts = append(hosts, hostReport{
			Name: host.Name, State: string(host.Runtime.ConnectionState), Maintenance: host.Runtime.InMaintenanceMode,
			MemoryMB: host.Hardware.MemorySize >> 20, UsedMB: usedMB(host.Self),
		})
	}
	vms := []vmReport{}
	for _, vm := range allVMs() {
		made := vmReport{
			Name: vm.Name, Path: vm.Config.Files.VmPathName, Power: string(vm.Runtime.PowerState),
			Host: s.nameOf(vm.Runtime.Host), UUID: vm.Config.Uuid, MemoryMB: vm.Config.Hardware.MemoryMB,
			MACs: []string{}, Disks: []string{},
		}
		for _, card := range cardsOf(vm) {
			made.MACs = append(made.MACs, card.MacAddress)
		}
		for _, disk := range disksOf(vm) {
			made.Disks = append(made.Disks, fileOf(disk))
		}
		vms = append(vms, made)
	}
	return map[string]interface{}{"hosts": hosts, "vms": vms}
}

func decoded(w http.ResponseWriter, r *http.Request, into interface{}) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, value interface{}) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
