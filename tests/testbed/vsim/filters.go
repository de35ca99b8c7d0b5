package main

import (
	"bytes"
	"io"
	"net/http"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	vimxml "github.com/vmware/govmomi/vim25/xml"
)

// createFilter gives the simulator's property collector the manners of a real one: an object that is missing when the
// filter is made is refused, an object that goes away later is reported to leave. The simulator makes any filter and
// answers every later WaitForUpdatesEx with ManagedObjectNotFound.
func (f *front) createFilter(w http.ResponseWriter, r *http.Request, req *types.CreateFilter) {
	if !f.authenticated(w, r) {
		return
	}
	tolerant := true
	if report := req.Spec.ReportMissingObjectsInResults; report == nil || !*report {
		for _, spec := range req.Spec.ObjectSet {
			if inInventory(spec.Obj.Type) && simulator.Map.Get(spec.Obj) == nil {
				writeFault(w, gone(spec.Obj))
				return
			}
		}
	}
	req.Spec.ReportMissingObjectsInResults = &tolerant
	var asked bytes.Buffer
	envelope := soap.Envelope{Body: &methods.CreateFilterBody{Req: req}}
	if err := vimxml.NewEncoder(&asked).Encode(envelope); err != nil {
		panic(err)
	}
	r.Body = io.NopCloser(&asked)
	f.serveSimulator(w, r, "CreateFilter")
}

// inInventory: everybody sees the same objects of this type. Views and collectors belong to a session.
func inInventory(kind string) bool {
	return kind == "Task" || entityOf(ref{Type: kind}) != nil
}
