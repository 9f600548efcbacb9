package lab

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is one thread of the operating system that runs what it is given: it is
// in the network namespace of a host, and the parent of its processes, which
// the kernel kills when the thread ends. So there is one for as long as the lab
// is open.
type thread struct {
	calls chan func()
	done  chan struct{}
}

func newThread() *thread {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	go t.run()
	return t
}

func (t *thread) run() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Not the main thread, which never ends and is what /proc/self shows. While
		// this goroutine holds it, another one gets another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			t.serve()
		}()
		<-locked
		runtime.UnlockOSThread()
		return
	}
	t.serve()
}

func (t *thread) serve() {
	defer close(t.done)
	for call := range t.calls {
		call()
	}
	// It was not unlocked: the thread ends with the goroutine.
}

// do runs f on the thread. It must not be called after stop.
func (t *thread) do(f func() error) error {
	result := make(chan error)
	t.calls <- func() { result <- f() }
	return <-result
}

func (t *thread) stop() {
	close(t.calls)
	<-t.done
}
