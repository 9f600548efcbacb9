package jepsen

import (
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// progress tells Config.Progress how a run gets on.
type progress struct {
	config Config

	mu     sync.Mutex
	phase  string
	began  time.Time // of the clients' work
	record *history.Recorder
	faults *faults
}

func (p *progress) set(phase string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = phase
}

// at is told when there is something to count.
func (p *progress) at(began time.Time, record *history.Recorder, faults *faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began, p.record, p.faults = began, record, faults
}

func (p *progress) now() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := Progress{Limit: p.config.TimeLimit, Phase: p.phase}
	if p.record != nil {
		now.Elapsed = min(time.Since(p.began), now.Limit)
		now.Counts, now.Faults = p.record.Counts(), p.faults.now()
	}
	return now
}

// tell begins to tell; the function that it gives ends it.
func (p *progress) tell() (stop func()) {
	if p.config.Progress == nil {
		return func() {}
	}
	return every(progressEvery, func() { p.config.Progress(p.now()) })
}

// flush begins to write the record out, now and then. Its failures are kept there.
func (p *progress) flush() (stop func()) {
	return every(flushEvery, func() { _ = p.record.Flush() })
}

// every does something again and again, until it is stopped, and once more then.
func every(interval time.Duration, do func()) (stop func()) {
	end := make(chan struct{})
	var loop sync.WaitGroup
	loop.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				do()
			case <-end:
				do()
				return
			}
		}
	})
	return func() { close(end); loop.Wait() }
}
