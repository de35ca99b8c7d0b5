package main

import (
	"context"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// rule makes a call go wrong.
type rule struct {
	Method string  `json:"method"` // "PowerOnVM_Task", "PUT /folder", "*"
	Match  string  `json:"match"`  // part of the SOAP body, or of the URL for /folder
	Kind   string  `json:"kind"`   // soap | task | http | drop | dropafter | delay
	Fault  string  `json:"fault"`  // vim fault type of soap and task, e.g. NoDiskSpace
	Status int     `json:"status"` // of http
	Ms     int     `json:"ms"`     // delay, also before the other kinds
	Count  int     `json:"count"`  // times left; 0: for ever
	Prob   float64 `json:"prob"`   // 0: always
}

// rules counts the calls and says which of them goes wrong.
type rules struct {
	mu    sync.Mutex
	list  []*rule
	calls map[string]int
}

var (
	typeOf      = types.TypeFunc()
	folderCalls = map[string]bool{"GET /folder": true, "HEAD /folder": true, "PUT /folder": true, "DELETE /folder": true}
)

// problem tells why a rule could never do what it says: that is a mistake in a test, and must not look like a fault
// that the product survived.
func (r *rule) problem() string {
	folder := folderCalls[r.Method]
	if r.Method != "*" && !folder && !isMethod(r.Method) {
		return fmt.Sprintf("no method is called %q", r.Method)
	}
	switch r.Kind {
	case "soap", "task":
		if folder {
			return r.Method + " is no SOAP call"
		}
		if faultNamed(r.Fault) == nil {
			return fmt.Sprintf("no fault is called %q", r.Fault)
		}
	case "http":
		if r.Status < 200 || r.Status > 599 {
			return fmt.Sprintf("%d is no HTTP status", r.Status)
		}
	case "delay":
		if r.Ms <= 0 {
			return "a delay of no time"
		}
	case "drop", "dropafter":
	default:
		return fmt.Sprintf("no rule is of kind %q", r.Kind)
	}
	return ""
}

// isMethod: what has a receiver is a request, PowerOnVM_Task, not a type like VirtualMachine.
func isMethod(name string) bool {
	kind, ok := typeOf(name)
	if !ok || kind.Kind() != reflect.Struct {
		return false
	}
	_, ok = kind.FieldByName("This")
	return ok
}

// take counts a call and returns the first rule that meets it.
func (r *rules) take(method, content string) *rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[method]++
	for i, candidate := range r.list {
		meets := candidate.Method == method || candidate.Method == "*" && (candidate.Fault == "" || !folderCalls[method])
		if !meets || !strings.Contains(content, candidate.Match) {
			continue
		}
		if candidate.Prob > 0 && rand.Float64() > candidate.Prob {
			continue
		}
		met := *candidate
		if candidate.Count > 0 {
			if candidate.Count--; candidate.Count == 0 {
				r.list = append(r.list[:i:i], r.list[i+1:]...)
			}
		}
		return &met
	}
	return nil
}

// injected is the refusal a rule names.
func (r *rule) injected() *refusal {
	return refuse(faultNamed(r.Fault), "Injected fault %s.", r.Fault)
}

// faultNamed is nil for a name that is no fault.
func faultNamed(name string) types.BaseMethodFault {
	if kind, ok := typeOf(name); ok {
		if fault, ok := reflect.New(kind).Interface().(types.BaseMethodFault); ok {
			return fault
		}
	}
	return nil
}

// fail is the work of a task that does nothing but end with the fault.
func (r *rule) fail(context.Context) (types.AnyType, *refusal) { return nil, r.injected() }
