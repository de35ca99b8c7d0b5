package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// tick is how often a copy that is held back looks whether it may go on.
const tick = 20 * time.Millisecond

// pace is the bytes a second that each copy of a disk may write, 0 for as many as it can. It may change while copies
// run.
type pace struct{ bytes atomic.Int64 }

type paceOrder struct {
	MBs float64 `json:"mb_s"`
}

func (p *pace) set(mbs float64) { p.bytes.Store(int64(mbs * (1 << 20))) }

// share is how much is copied in one go: of a slow copy so little that it stops soon when it shall.
func (p *pace) share() int64 {
	if now := p.bytes.Load(); now > 0 && now/20 < chunk {
		return max(now/20, 4096)
	}
	return chunk
}

// allow waits until so many bytes may be written.
func (p *pace) allow(ctx context.Context, bytes int64) error {
	for owed := bytes; owed > 0 && ctx.Err() == nil; {
		now := p.bytes.Load()
		if now <= 0 {
			break
		}
		began := time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
		owed -= int64(float64(now) * time.Since(began).Seconds())
	}
	return ctx.Err()
}

func (s *server) orderPace(w http.ResponseWriter, order paceOrder) {
	if order.MBs < 0 {
		http.Error(w, "a pace below 0", http.StatusBadRequest)
		return
	}
	s.pace.set(order.MBs)
	answer(w, "set")
}
