package replication

const (
	// defaultBacklog bounds entries that wait to be applied, in bytes, where nobody says.
	defaultBacklog = 64 << 20
	// freeBacklog of one group never counts as too much: what a single append brings.
	freeBacklog = maxAppendEntries
)

// full reports whether the replica must take no more entries for now: the library
// keeps committed ones in memory until the machine has applied them, up to 128 appends
// per group, and the machine does not keep up. The leader sends them again.
//
// Only committed entries count, so an append that is refused never holds back the
// commit index that the machine waits for.
func (g *Group) full() bool {
	if !g.ready.Load() {
		return false
	}
	waiting := int64(g.raft.CommitIndex()) - int64(g.applied.index.Load())
	if waiting <= freeBacklog {
		g.noteBacklog(0)
		return false
	}
	g.noteBacklog(waiting * g.recent.size.Load())
	return g.host.backlog.Load() > g.host.mostBacklog
}

// noteBacklog says how many bytes wait to be applied here.
func (g *Group) noteBacklog(bytes int64) {
	g.host.backlog.Add(bytes - g.backlog.Swap(bytes))
}
