package storage

import "time"

// StateMetrics are figures of a database since it was opened.
type StateMetrics struct {
	DiskBytes           uint64 // tables, write-ahead log and all
	TableBytes          int64
	TableFiles          int64
	MemTableBytes       uint64
	MemTables           int64
	CacheBytes          int64
	CacheHits           int64
	CacheMisses         int64
	FilterHits          int64 // tables that a filter spared a look into
	FilterMisses        int64
	Flushes             int64
	Compactions         int64
	CompactionTime      time.Duration
	CompactionDebtBytes uint64
	Ingests             uint64
	WALBytesIn          uint64 // as written by the database's callers
	WALBytesWritten     uint64 // as written to disk
	ReadAmplification   int
	L0Files             int64
	Views               int // pinned, with Pebble's own
}

// Metrics reads the figures; a closed database has none.
func (s *State) Metrics() StateMetrics {
	if s.enter() != nil {
		return StateMetrics{}
	}
	defer s.leave()
	m := s.db.Metrics()
	total := m.Total()
	return StateMetrics{
		DiskBytes:           m.DiskSpaceUsage(),
		TableBytes:          total.TablesSize,
		TableFiles:          total.TablesCount,
		MemTableBytes:       m.MemTable.Size,
		MemTables:           m.MemTable.Count,
		CacheBytes:          m.BlockCache.Size,
		CacheHits:           m.BlockCache.Hits,
		CacheMisses:         m.BlockCache.Misses,
		FilterHits:          m.Filter.Hits,
		FilterMisses:        m.Filter.Misses,
		Flushes:             m.Flush.Count,
		Compactions:         m.Compact.Count,
		CompactionTime:      m.Compact.Duration,
		CompactionDebtBytes: m.Compact.EstimatedDebt,
		Ingests:             m.Ingest.Count,
		WALBytesIn:          m.WAL.BytesIn,
		WALBytesWritten:     m.WAL.BytesWritten,
		ReadAmplification:   m.ReadAmp(),
		L0Files:             m.Levels[0].TablesCount,
		Views:               m.Snapshots.Count,
	}
}
