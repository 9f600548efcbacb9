package api

import (
	"testing"
	"unsafe"
)

// TestWidenStack: a stack does not move when the room that was made on it is
// used, and moves when more is.
func TestWidenStack(t *testing.T) {
	for kib, want := range map[int]bool{10: false, 100: true} {
		moved := make(chan bool)
		go func() {
			widenStack(false)
			var here byte
			before := uintptr(unsafe.Pointer(&here)) // as a number, it stays what it was
			use(kib)
			moved <- uintptr(unsafe.Pointer(&here)) != before
		}()
		if got := <-moved; got != want {
			t.Errorf("%d KiB of the stack were used: it was moved: %v", kib, got)
		}
	}
}

// use takes up as many KiB of the stack.
//
//go:noinline
func use(kib int) byte {
	var room [1 << 10]byte
	room[kib%len(room)] = 1
	if kib == 0 {
		return room[0]
	}
	return use(kib-1) + room[kib%len(room)]
}
