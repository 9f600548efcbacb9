//go:build capstan_faults

package fault

import "os"

// Possible says that this build can do things wrong.
const Possible = true

var (
	planted   = Fault(os.Getenv("CAPSTAN_FAULT"))
	smallLogs = os.Getenv("CAPSTAN_FAULT_SMALL_LOGS") != ""
)

// On reports whether this process does f wrong.
func On(f Fault) bool { return f == planted }

// SmallLogs reports whether this process cuts its logs after a few hundred
// entries: who was away for a few seconds is sent a snapshot then. That is no
// fault, only something that else takes a full disk's worth of writes to see.
func SmallLogs() bool { return smallLogs }
