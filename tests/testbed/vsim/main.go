// vsim is the test bed's vSphere API server: one standalone ESXi host, or a vCenter with hosts, per process.
//
// The property collector, views and sessions are those of govmomi's simulator (Debian package
// golang-github-vmware-govmomi-dev, 0.24.2). Everything the product depends on is done here the way ESXi does it:
// VMX files are parsed, disks are real sparse files with descriptors and locks, RAM is limited, tasks take time.
//
// It prints one line of JSON when it listens, {"port": ..., "pid": ...}, and leaves nothing behind when it ends but the
// -inventory file.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// options are the command line.
type options struct {
	esx, admit, exitOnEOF bool
	staleSpace            bool
	multiextent           bool // reads disks in the format of Workstation
	stateless             bool
	cluster, apiVersion   string
	hostSpecs             []hostSpec
	storeList             []*store
	networks              []string
	capacity              int64 // bytes of every datastore, 0: what the file system says
	user, password        string
	idle, taskTime        time.Duration
	copyMBs               float64
	controlToken          string
	powerSocket           string
	inventory             string // file that keeps the VMs over a crash
}

// server is the whole world of one process.
type server struct {
	options
	service *simulator.Service
	hosts   []*simulator.HostSystem
	stores  map[string]*store
	rules   rules
	pace    pace
	started time.Time // when the process, and with it every host, booted

	// mu owns the inventory: every change to a VM, a host or a datastore is made while holding it. File operations
	// that may be long are done outside; the file system arbitrates between them.
	mu      sync.Mutex
	locks   map[types.ManagedObjectReference][]*os.File // disks of running VMs
	busy    map[types.ManagedObjectReference]types.ManagedObjectReference
	cancels map[types.ManagedObjectReference]func() // running tasks that CancelTask can end
	macs    map[string]string                       // generated MAC -> what it was made for
	toAsk   map[string]questionOrder                // what the VM of that name asks when it is switched on
	open    map[types.ManagedObjectReference]*open
	asked   int // questions so far
	ahead   time.Duration
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address; port 0 lets the system choose")
	certificate := flag.String("tlscert", "", "PEM file")
	key := flag.String("tlskey", "", "PEM file")
	var o options
	var hosts, stores, networks string
	var taskMs, capacityMB int64
	flag.BoolVar(&o.esx, "esx", false, "be a standalone ESXi host instead of a vCenter")
	flag.StringVar(&o.cluster, "cluster", "", "name of the cluster the hosts are in; without it they stand alone")
	flag.StringVar(&hosts, "hosts", "esx1:131072:32:2600", "name:memMB:cores:mhz[:nested],...")
	flag.StringVar(&stores, "datastores", "", "name=directory,...")
	flag.StringVar(&networks, "networks", "", "port groups, comma separated")
	flag.StringVar(&o.user, "username", "", "the only account")
	flag.StringVar(&o.password, "password", "", "its password; better: environment VSIM_PASSWORD")
	flag.DurationVar(&o.idle, "idle", 0, "idle time after which a session ends")
	flag.Int64Var(&taskMs, "task-ms", 0, "what every task takes")
	flag.BoolVar(&o.staleSpace, "stale-space", false, "show a datastore's free space as it was at its last refresh")
	flag.BoolVar(&o.multiextent, "multiextent", false, "read disks of many extents in Workstation's format")
	flag.BoolVar(&o.stateless, "stateless", false, "boot from the network: no VM of the -inventory file is registered any more")
	flag.BoolVar(&o.admit, "admit", false, "refuse a power-on beyond the host's RAM")
	flag.StringVar(&o.apiVersion, "api-version", "6.5", "about.apiVersion")
	flag.Float64Var(&o.copyMBs, "copy-mb-s", 0, "MB a second that each copy of a disk writes; 0: as fast as it can")
	flag.Int64Var(&capacityMB, "capacity-mb", 0, "capacity of every datastore")
	flag.StringVar(&o.controlToken, "control-token", "", "secret of /ctl; better: environment VSIM_CONTROL_TOKEN")
	flag.StringVar(&o.powerSocket, "power-socket", "", "Unix datagram socket told about power changes")
	flag.StringVar(&o.inventory, "inventory", "", "file that keeps the registered VMs over a crash")
	flag.BoolVar(&o.exitOnEOF, "exit-on-eof", false, "end when standard input does")
	flag.Parse()

	if o.password == "" {
		o.password = os.Getenv("VSIM_PASSWORD")
	}
	if o.controlToken == "" {
		o.controlToken = os.Getenv("VSIM_CONTROL_TOKEN")
	}
	o.taskTime = time.Duration(taskMs) * time.Millisecond
	o.capacity = capacityMB << 20
	o.networks = split(networks)
	for _, spec := range split(hosts) {
		o.hostSpecs = append(o.hostSpecs, parseHost(spec))
	}
	for _, spec := range split(stores) {
		name, directory, ok := strings.Cut(spec, "=")
		if !ok {
			log.Fatalf("-datastores: %q is not name=directory", spec)
		}
		o.storeList = append(o.storeList, &store{name: name, directory: directory})
	}

	logger := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	log.SetOutput(io.Discard) // the simulator logs every property read
	s := newServer(o)
	if err := s.recall(); err != nil {
		logger.Fatalf("-inventory: %s", err)
	}
	pair, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		logger.Fatalf("-tlscert, -tlskey: %s", err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		logger.Fatalf("-listen: %s", err)
	}
	web := &http.Server{
		Handler:   s.routes(logger),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, // as ESXi since 6.7
		ErrorLog:  logger,
		// No HTTP/2: a connection must belong to one client to be dropped.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	go func() { logger.Fatal(web.ServeTLS(listener, "", "")) }()
	ready, _ := json.Marshal(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port, "pid": os.Getpid()})
	fmt.Println(string(ready))

	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	if o.exitOnEOF {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			end <- syscall.SIGTERM
		}()
	}
	<-end
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func parseHost(spec string) hostSpec {
	part := strings.Split(spec, ":")
	nested := len(part) == 5 && part[4] == "nested"
	if len(part) != 4 && !nested {
		log.Fatalf("-hosts: %q is not name:memMB:cores:mhz[:nested]", spec)
	}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n <= 0 {
			log.Fatalf("-hosts: %q in %q is not a positive number", text, spec)
		}
		return n
	}
	return hostSpec{
		name: part[0], memoryMB: number(part[1]), cores: int16(number(part[2])), mhz: int32(number(part[3])), nested: nested,
	}
}
