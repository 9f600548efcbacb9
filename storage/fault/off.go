//go:build !capstan_faults

package fault

// Possible says that this build can do things wrong.
const Possible = false

// On reports whether this process does f wrong: never, in this build.
func On(Fault) bool { return false }

// SmallLogs reports whether this process cuts its logs after a few hundred
// entries: never, in this build.
func SmallLogs() bool { return false }
