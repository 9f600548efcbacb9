//go:build capstan_faults

package fault

import "os"

// Possible says that this build can do things wrong.
const Possible = true

var planted = Fault(os.Getenv("CAPSTAN_FAULT"))

// On reports whether this process does f wrong.
func On(f Fault) bool { return f == planted }
