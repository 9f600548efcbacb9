//go:build race

package node

import "runtime"

// Go 1.26 runs the channel timers of a synctest bubble on whichever thread
// receives from them, and gives all of them one race context, which the race
// detector does not survive when two do so at once (it ends in a segmentation
// fault in runtime.(*timer).unlockAndRun). With one thread it cannot happen,
// and the detector, which goes by happens-before, sees as much.
func init() { runtime.GOMAXPROCS(1) }

const raceDetector = true
