package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// refusal is a fault with the sentence that a person is shown.
type refusal struct {
	fault   types.BaseMethodFault
	message string
}

func refuse(fault types.BaseMethodFault, format string, args ...interface{}) *refusal {
	return &refusal{fault, fmt.Sprintf(format, args...)}
}

// job is what a _Task method is going to do once its time has passed.
type job struct {
	entity     *ref // what the client sees the task on; nil where it would be no managed entity (pyVmomi chokes on that)
	alone      *ref // a VM that can have one task at a time
	cancelable bool
	work       func(ctx context.Context) (types.AnyType, *refusal)
	progress   func(percent int32) // for work that can tell how far it is; set when the job starts
}

// start runs a job asynchronously and returns its task.
func (s *server) start(this ref, name string, j *job) (ref, *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.alone != nil {
		if other, taken := s.busy[*j.alone]; taken {
			return ref{}, refuse(&types.TaskInProgress{Task: other}, "Another task is already in progress.")
		}
	}
	id := strings.TrimSuffix(name, "_Task")
	task := simulator.CreateTask(this, strings.ToLower(id[:1])+id[1:], nil)
	ctx, cancel := context.WithCancel(context.Background())
	simulator.Map.WithLock(task, func() {
		task.Info.Name = name
		task.Info.Entity = j.entity
		task.Info.EntityName = s.nameOf(j.entity)
		task.Info.Cancelable = j.cancelable
		task.Info.Reason = &types.TaskReasonUser{UserName: s.user}
	})
	if j.cancelable {
		s.cancels[task.Self] = cancel
	}
	if j.alone != nil {
		s.busy[*j.alone] = task.Self
	}
	go func() {
		defer cancel()
		s.run(ctx, task, j)
	}()
	return task.Self, nil
}

// run takes the task's time first: what it does is seen at its end, not before.
func (s *server) run(ctx context.Context, task *simulator.Task, j *job) {
	update(task,
		change{Name: "info.startTime", Val: time.Now()},
		change{Name: "info.state", Val: types.TaskInfoStateRunning})
	told := int32(0)
	j.progress = func(percent int32) {
		if percent > told && percent < 100 {
			told = percent
			update(task, change{Name: "info.progress", Val: percent})
		}
	}
	for percent := int32(25); s.taskTime > 0 && percent <= 100 && ctx.Err() == nil; percent += 25 {
		select {
		case <-ctx.Done():
		case <-time.After(s.taskTime / 4):
			j.progress(percent)
		}
	}
	var result types.AnyType
	var refused *refusal
	if ctx.Err() == nil {
		result, refused = s.work(ctx, j)
	}
	cancelled := ctx.Err() != nil
	if cancelled {
		result, refused = nil, refuse(&types.RequestCanceled{}, "The task was canceled by a user.")
	}

	s.mu.Lock()
	delete(s.cancels, task.Self)
	if j.alone != nil {
		delete(s.busy, *j.alone)
	}
	s.mu.Unlock()
	done := []change{
		{Name: "info.completeTime", Val: time.Now()},
		{Name: "info.cancelable", Val: false},
		{Name: "info.cancelled", Val: cancelled},
	}
	if refused != nil {
		done = append(done,
			change{Name: "info.error", Val: types.LocalizedMethodFault{Fault: refused.fault, LocalizedMessage: refused.message}},
			change{Name: "info.state", Val: types.TaskInfoStateError})
	} else {
		if result != nil {
			done = append(done, change{Name: "info.result", Val: result})
		}
		done = append(done,
			change{Name: "info.progress", Val: int32(100)},
			change{Name: "info.state", Val: types.TaskInfoStateSuccess})
	}
	update(task, done...)
}

// work does the job; what the simulator's own code panics on becomes the task's error.
func (s *server) work(ctx context.Context, j *job) (result types.AnyType, refused *refusal) {
	defer func() {
		if problem := recover(); problem != nil {
			result, refused = nil, systemError(problem)
		}
	}()
	return j.work(ctx)
}

func systemError(problem interface{}) *refusal {
	reason := fmt.Sprint(problem)
	return refuse(&types.SystemError{Reason: reason}, "A general system error occurred: %s", reason)
}

func (s *server) cancelTask(req *types.CancelTask) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	cancel, ok := s.cancels[req.This]
	if !ok {
		return refuse(&types.InvalidState{}, "The task cannot be canceled.")
	}
	cancel()
	return nil
}

func (s *server) nameOf(entity *ref) string {
	if entity == nil {
		return ""
	}
	switch e := simulator.Map.Get(*entity).(type) {
	case *simulator.VirtualMachine:
		return e.Name
	case *simulator.HostSystem:
		return e.Name
	case *simulator.Folder:
		return e.Name
	case *simulator.Datastore:
		return e.Name
	}
	return entity.Value
}
