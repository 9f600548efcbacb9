package api

// requestStack is what a request needs of a stack, in bytes: what leads to a
// read of the database is some 50 calls deep, and Pebble's are large.
const requestStack = 15 << 10

// widenStack makes room on this goroutine's stack at once.
//
// Each request has a goroutine of its own, which begins with a few KiB. On the
// way to the database it would outgrow that three or four times, and each time
// all that is on the stack by then is looked through and copied: measured, a
// seventh of the CPU of a read. Called where there is little on the stack yet, it
// is moved once, for next to nothing. never is always false: the room is in the
// frame all the same, and need not be cleared.
//
//go:noinline
func widenStack(never bool) {
	if never {
		var room [requestStack]byte
		keep(&room)
	}
}

//go:noinline
func keep(*[requestStack]byte) {}
