package storage

import (
	"encoding/binary"
	"math"
	"time"
)

// ledgerLimits bound the records of the ledger. Commands bring them along: what a
// command does depends on the release of the leader that proposed it, and not on
// that of a replica that applies it. So a release may change these constants, and
// replicas of both go on holding the same, byte for byte.
//
// All other constants that shape a record (the bounds of keys, values and messages,
// conflictOverheadBytes) belong to the format of that record or command, and change
// only with it.
type ledgerLimits struct {
	fates         uint64
	conflicts     uint64
	conflictBytes uint64
	conflictAge   time.Duration // lived, see Promotion.Lived
	conflictDrops uint64        // by one command
	dotSpans      uint64
	// former marks commands of releases before limits were part of them: there
	// conflicts age by the leader's clock.
	former bool
}

// limits are what this release proposes. Fates are dropped by pages: so many more
// keep at least the latest MaxFates.
var limits = ledgerLimits{
	fates: MaxFates + MaxPromotionWrites - 1, conflicts: MaxConflicts, conflictBytes: MaxConflictBytes,
	conflictAge: MaxConflictAge, conflictDrops: MaxConflictDrops, dotSpans: MaxDotSpans,
}

// formerLimits are those of commands that do not bring any. They never change.
var formerLimits = ledgerLimits{
	fates: 64 << 10, conflicts: 10_000, conflictBytes: 16 << 20,
	conflictAge: 7 * 24 * time.Hour, conflictDrops: math.MaxUint64, dotSpans: 1 << 18, former: true,
}

// formerCollect is how many tombstones a floor command collects that does not say.
const formerCollect = 4096

// collectLimit is how many a floor command of this release collects.
var collectLimit uint64 = MaxCollected

// ledgerLimitsLen is the length of limits in a command, 8 bytes each.
const ledgerLimitsLen = 6 * 8

func (l *ledgerLimits) append(dst []byte) []byte {
	for _, v := range []uint64{l.fates, l.conflicts, l.conflictBytes, uint64(l.conflictAge), l.conflictDrops, l.dotSpans} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	return dst
}

func (d *decoder) ledgerLimits() ledgerLimits {
	return ledgerLimits{
		fates: d.uint64(), conflicts: d.uint64(), conflictBytes: d.uint64(),
		conflictAge: time.Duration(d.uint64()), conflictDrops: d.uint64(), dotSpans: d.uint64(),
	}
}
