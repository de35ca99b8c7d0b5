package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	vimxml "github.com/vmware/govmomi/vim25/xml"
)

// taskMethods prepare a job or refuse the call at once; callMethods are done when they return.
type (
	taskMethod func(types.AnyType) (*job, *refusal)
	callMethod func(types.AnyType) *refusal
)

func task[R any](prepare func(*R) (*job, *refusal)) taskMethod {
	return func(body types.AnyType) (*job, *refusal) { return prepare(body.(*R)) }
}

func call[R any](do func(*R) *refusal) callMethod {
	return func(body types.AnyType) *refusal { return do(body.(*R)) }
}

// unsafe are tasks in which the simulator would go around our RAM, disks and locks.
var unsafe = map[string]bool{
	"PowerOnMultiVM_Task": true, "RelocateVM_Task": true, "MigrateVM_Task": true, "RevertToCurrentSnapshot_Task": true,
	"RevertToSnapshot_Task": true, "RemoveSnapshot_Task": true, "RemoveAllSnapshots_Task": true,
}

// front answers SOAP: with our methods where there is one, otherwise with the simulator's.
type front struct {
	*server
	tasks  map[string]taskMethod
	calls  map[string]callMethod
	logger *log.Logger
}

func (s *server) routes(logger *log.Logger) http.Handler {
	f := &front{server: s, logger: logger}
	f.tasks = map[string]taskMethod{
		"Folder.RegisterVM_Task":                              task(s.registerVM),
		"VirtualMachine.PowerOnVM_Task":                       task(s.powerOn),
		"VirtualMachine.PowerOffVM_Task":                      task(s.powerOff),
		"VirtualMachine.ResetVM_Task":                         task(s.reset),
		"VirtualMachine.SuspendVM_Task":                       task(s.suspend),
		"VirtualMachine.ReconfigVM_Task":                      task(s.reconfigure),
		"VirtualMachine.CreateSnapshot_Task":                  task(s.createSnapshot),
		"VirtualMachine.Destroy_Task":                         task(s.destroy),
		"VirtualMachine.CloneVM_Task":                         task(s.clone),
		"HostSystem.EnterMaintenanceMode_Task":                task(s.enterMaintenance),
		"HostSystem.ExitMaintenanceMode_Task":                 task(s.exitMaintenance),
		"VirtualDiskManager.CreateVirtualDisk_Task":           task(s.createDisk),
		"VirtualDiskManager.CopyVirtualDisk_Task":             task(s.copyDisk),
		"VirtualDiskManager.MoveVirtualDisk_Task":             task(s.moveDisk),
		"VirtualDiskManager.DeleteVirtualDisk_Task":           task(s.deleteDisk),
		"FileManager.CopyDatastoreFile_Task":                  task(s.copyFile),
		"FileManager.MoveDatastoreFile_Task":                  task(s.moveFile),
		"FileManager.DeleteDatastoreFile_Task":                task(s.deleteFile),
		"HostDatastoreBrowser.SearchDatastore_Task":           task(s.search),
		"HostDatastoreBrowser.SearchDatastoreSubFolders_Task": task(s.searchSubFolders),
	}
	f.calls = map[string]callMethod{
		"Task.CancelTask":                        call(s.cancelTask),
		"VirtualMachine.UnregisterVM":            call(s.unregisterVM),
		"VirtualMachine.AnswerVM":                call(s.answerVM),
		"VirtualMachine.ShutdownGuest":           call(s.shutdownGuest),
		"FileManager.MakeDirectory":              call(s.makeDirectory),
		"Datastore.RefreshDatastore":             call(s.refreshDatastore),
		"HostStorageSystem.RefreshStorageSystem": call(s.refreshStorage),
	}
	mux := http.NewServeMux()
	mux.Handle("/sdk", f)
	mux.Handle("/sdk/vimService", f)
	mux.HandleFunc("/sdk/vimServiceVersions.xml", s.service.ServiceVersions)
	mux.Handle("/ctl/", s.control())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/folder/") {
			s.serveFolder(w, r) // not through the mux, which redirects a path with ".." elsewhere
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	r.URL.Path = "/sdk" // the only path the simulator knows its registry by
	r.Body = io.NopCloser(bytes.NewReader(content))
	method, err := simulator.UnmarshalBody(typeOf, content)
	if err != nil {
		f.service.ServeSDK(w, r) // which says so in SOAP
		return
	}
	met := f.rules.take(method.Name, string(content))
	if met == nil {
		f.dispatch(w, r, method, content)
		return
	}
	time.Sleep(time.Duration(met.Ms) * time.Millisecond)
	isTask := strings.HasSuffix(method.Name, "_Task")
	switch {
	case met.Kind == "http":
		w.WriteHeader(met.Status)
	case met.Kind == "drop":
		drop(w)
	case met.Kind == "dropafter":
		f.dispatch(httptest.NewRecorder(), r, method, content)
		drop(w)
	case met.Kind == "soap", met.Kind == "task" && !isTask:
		writeFault(w, met.injected())
	case met.Kind == "task":
		if f.authenticated(w, r) {
			f.begin(w, method, &job{entity: entityOf(method.This), work: met.fail})
		}
	default:
		f.dispatch(w, r, method, content)
	}
}

// dispatch answers a call that nothing interferes with. A panic of the simulator on odd input is an answer too.
func (f *front) dispatch(w http.ResponseWriter, r *http.Request, method *simulator.Method, content []byte) {
	defer func() {
		if problem := recover(); problem != nil {
			f.logger.Printf("%s: %v\n%s", method.Name, problem, debug.Stack())
			writeFault(w, systemError(problem))
		}
	}()
	key := method.This.Type + "." + method.Name
	prepare, isTask := f.tasks[key]
	do, isCall := f.calls[key]
	if unsafe[method.Name] {
		prepare, isTask = func(types.AnyType) (*job, *refusal) {
			return nil, refuse(&types.NotSupported{}, "The test bed's server does not do %s.", method.Name)
		}, true
	}
	if !isTask && strings.HasSuffix(method.Name, "_Task") && simulatorMethod(method).IsValid() {
		prepare, isTask = func(types.AnyType) (*job, *refusal) { return f.simulatorJob(method), nil }, true
	}
	if method.Name == "CurrentTime" {
		f.mu.Lock()
		now := time.Now().Add(f.ahead).UTC()
		f.mu.Unlock()
		writeReply(w, method.Name, "<returnval>"+now.Format(time.RFC3339Nano)+"</returnval>")
		return
	}
	if filter, ok := method.Body.(*types.CreateFilter); ok {
		f.createFilter(w, r, filter)
		return
	}
	if !isTask && !isCall {
		// A host looks up its free space every now and then; here it is as if it just had. Fetch is pyVmomi's way to
		// read one property.
		reads := method.Name == "Fetch" || strings.HasPrefix(method.Name, "Retrieve")
		if reads && bytes.Contains(content, []byte("Datastore")) {
			f.measureAll()
		}
		f.serveSimulator(w, r, method.Name)
		return
	}
	if !f.authenticated(w, r) {
		return
	}
	if simulator.Map.Get(method.This) == nil {
		writeFault(w, gone(method.This))
		return
	}
	if isCall {
		if refused := do(method.Body); refused != nil {
			writeFault(w, refused)
			return
		}
		writeReply(w, method.Name, "")
		return
	}
	j, refused := prepare(method.Body)
	if refused != nil {
		writeFault(w, refused)
		return
	}
	f.begin(w, method, j)
}

// serveSimulator lets the simulator answer while nothing changes: it walks the inventory without locks and panics on
// what is gone half way. The answer is sent afterwards, because a client may be slow to take it. Only who waits for
// changes does not keep them away.
func (f *front) serveSimulator(w http.ResponseWriter, r *http.Request, method string) {
	if method == "WaitForUpdatesEx" || method == "WaitForUpdates" {
		f.service.ServeSDK(w, r)
		return
	}
	made := httptest.NewRecorder()
	func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.service.ServeSDK(made, r)
	}()
	send(w, made)
}

func send(w http.ResponseWriter, made *httptest.ResponseRecorder) {
	for name, values := range made.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(made.Code)
	_, _ = w.Write(made.Body.Bytes())
}

func (f *front) begin(w http.ResponseWriter, method *simulator.Method, j *job) {
	started, refused := f.start(method.This, method.Name, j)
	if refused != nil {
		writeFault(w, refused)
		return
	}
	writeReply(w, method.Name, `<returnval type="Task">`+started.Value+`</returnval>`)
}

func gone(r ref) *refusal {
	return refuse(&types.ManagedObjectNotFound{Obj: r}, "The object '%s:%s' has already been deleted or has not been "+
		"completely created", r.Type, r.Value)
}

// entityOf is what a task can be shown to run on.
func entityOf(this ref) *ref {
	switch this.Type {
	case "VirtualMachine", "HostSystem", "Folder", "Datastore", "ResourcePool", "ComputeResource",
		"ClusterComputeResource", "Datacenter":
		return &this
	}
	return nil
}

// simulatorMethod is the simulator's own implementation of a call.
func simulatorMethod(method *simulator.Method) reflect.Value {
	target := simulator.Map.Get(method.This)
	if target == nil {
		return reflect.Value{}
	}
	return reflect.ValueOf(target).MethodByName(strings.Title(strings.Replace(method.Name, "_Task", "Task", 1)))
}

// simulatorJob runs the simulator's implementation, which acts at once, at the end of our task.
func (f *front) simulatorJob(method *simulator.Method) *job {
	return &job{entity: entityOf(method.This), work: f.locked(func() (types.AnyType, *refusal) {
		return runSimulator(method)
	})}
}

func runSimulator(method *simulator.Method) (types.AnyType, *refusal) {
	implementation := simulatorMethod(method)
	if !implementation.IsValid() {
		return nil, gone(method.This)
	}
	args := []reflect.Value{reflect.ValueOf(method.Body)}
	if implementation.Type().NumIn() == 2 {
		context := inProcess()
		context.Caller = &method.This
		args = append([]reflect.Value{reflect.ValueOf(context)}, args...)
	}
	var reply soap.HasFault
	simulator.Map.WithLock(method.This, func() { reply = implementation.Call(args)[0].Interface().(soap.HasFault) })
	if fault := reply.Fault(); fault != nil {
		return nil, &refusal{fault.VimFault().(types.BaseMethodFault), fault.String}
	}
	started := reflect.ValueOf(reply).Elem().FieldByName("Res").Elem().FieldByName("Returnval").Interface().(ref)
	info := simulator.Map.Get(started).(*simulator.Task).Info
	if info.Error != nil {
		return nil, &refusal{info.Error.Fault, info.Error.LocalizedMessage}
	}
	return info.Result, nil
}

// authenticated asks the simulator whether the cookie belongs to a live session, which also keeps the session alive.
// If it does not, its answer (a NotAuthenticated fault) goes to the client.
func (s *server) authenticated(w http.ResponseWriter, r *http.Request) bool {
	const question = `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>` +
		`<CurrentTime xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></CurrentTime></Body></Envelope>`
	ask := httptest.NewRequest(http.MethodPost, "/sdk", strings.NewReader(question))
	ask.Header, ask.RemoteAddr = r.Header, r.RemoteAddr
	got := httptest.NewRecorder()
	s.service.ServeSDK(got, ask)
	if got.Code == http.StatusOK {
		return true
	}
	if w != nil {
		send(w, got)
	}
	return false
}

const (
	envelope = xml.Header + `<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
		`<soapenv:Body>`
	envelopeEnd = `</soapenv:Body></soapenv:Envelope>`
)

func writeReply(w http.ResponseWriter, method, content string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, `%s<%sResponse xmlns="urn:vim25">%s</%sResponse>%s`, envelope, method, content, method, envelopeEnd)
}

func writeFault(w http.ResponseWriter, refused *refusal) {
	kind := reflect.TypeOf(refused.fault).Elem().Name()
	var detail, message bytes.Buffer
	_ = xml.EscapeText(&message, []byte(refused.message))
	attribute := func(name, value string) vimxml.Attr { return vimxml.Attr{Name: vimxml.Name{Local: name}, Value: value} }
	encoder := vimxml.NewEncoder(&detail)
	err := encoder.EncodeElement(refused.fault, vimxml.StartElement{
		Name: vimxml.Name{Local: kind + "Fault"},
		Attr: []vimxml.Attr{attribute("xmlns", "urn:vim25"), attribute("xsi:type", kind)},
	})
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, `%s<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring>`+
		`<detail>%s</detail></soapenv:Fault>%s`, envelope, message.String(), detail.String(), envelopeEnd)
}

// drop ends the connection without an answer.
func drop(w http.ResponseWriter) {
	if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = connection.Close()
	}
}
