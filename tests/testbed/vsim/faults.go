package main

import (
	"context"
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

var kinds = map[string]bool{"soap": true, "task": true, "http": true, "drop": true, "dropafter": true, "delay": true}

var typeOf = types.TypeFunc()

// take counts a call and returns the first rule that meets it.
func (r *rules) take(method, content string) *rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[method]++
	for i, candidate := range r.list {
		if candidate.Method != "*" && candidate.Method != method || !strings.Contains(content, candidate.Match) {
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
