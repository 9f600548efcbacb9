package bend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// maxControlBytes bounds the control file; it takes a tenth of it.
	maxControlBytes = 4 << 10
	// MaxClockOffset bounds an offset: as far as no test needs to go, and far
	// from where times overflow.
	MaxClockOffset = 10 * 365 * 24 * time.Hour
	// MaxDriftPPM is a clock at double speed; its negative, one that stands still.
	MaxDriftPPM = 1_000_000
	// MaxSyncDelay is longer than anybody waits for a disk.
	MaxSyncDelay = time.Minute
)

// Control is what is bent, as the control file has it: one JSON object, each
// field may be left out. The zero value bends nothing.
type Control struct {
	// Generation is the writer's own number of this control: the node tells it
	// back in [Counters.Seen]. Number them from 1: 0 is that of no control.
	Generation uint64 `json:"generation"`

	// ClockOffsetMS is added to the wall clock, in milliseconds, at most
	// [MaxClockOffset] either way.
	ClockOffsetMS int64 `json:"clock_offset_ms"`
	// ClockDriftPPM makes the clock run away by so many microseconds a second,
	// at most [MaxDriftPPM] either way, from the moment that this drift began.
	// A control with the same drift lets it go on; 0 takes back what has
	// gathered.
	ClockDriftPPM int64 `json:"clock_drift_ppm"`

	// DiskFull refuses what makes a file larger or makes a new one (ENOSPC), and
	// tells that nothing is free. What overwrites, removes or syncs goes on. What
	// was preallocated counts for nothing, as on a file system that can not do
	// it: a node that is written to ends itself soon.
	DiskFull bool `json:"disk_full"`
	// SyncDelayMS is how long each sync takes longer, of files and directories, in
	// milliseconds, at most [MaxSyncDelay]. It ends when a later control says less.
	SyncDelayMS int64 `json:"sync_delay_ms"`
	// SyncError makes syncs fail (EIO), after their delay.
	SyncError bool `json:"sync_error"`
	// Volatile keeps what is written in the process until it is synced, so that
	// kill -9 is a power cut. It is read when the process starts, and not again.
	Volatile bool `json:"volatile"`
}

// decodeControl reads a control file. Several names for one field, or
// anything behind the object, can not be told from a mistake; the standard
// library forgives the first, so only the second is refused.
func decodeControl(text []byte) (Control, error) {
	if len(text) > maxControlBytes {
		return Control{}, fmt.Errorf("over %d bytes", maxControlBytes)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return Control{}, errors.New("not a JSON object")
	}
	var c Control
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return Control{}, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return Control{}, errors.New("more than one JSON object")
	}
	return c, c.check()
}

func (c Control) check() error {
	within := func(name string, value, least, most int64) error {
		if value < least || value > most {
			return fmt.Errorf("%s is %d, not in %d to %d", name, value, least, most)
		}
		return nil
	}
	return errors.Join(
		within("clock_offset_ms", c.ClockOffsetMS, -MaxClockOffset.Milliseconds(), MaxClockOffset.Milliseconds()),
		within("clock_drift_ppm", c.ClockDriftPPM, -MaxDriftPPM, MaxDriftPPM),
		within("sync_delay_ms", c.SyncDelayMS, 0, MaxSyncDelay.Milliseconds()),
	)
}

func (c Control) syncDelay() time.Duration { return time.Duration(c.SyncDelayMS) * time.Millisecond }
