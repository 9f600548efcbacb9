package metrics

// A node that comes back with an empty disk is a new node of the same name, and
// until the old one is removed both are there. Labels name nodes, and one that
// stands twice would have the whole scrape fail, so that those of one name are shown
// as one.

func mergePeers(all []Peer) []Peer {
	return merge(all, func(p Peer) string { return p.Name }, func(a, b Peer) Peer {
		return Peer{
			Name: a.Name, Connected: a.Connected || b.Connected, Connects: a.Connects + b.Connects, Dropped: a.Dropped + b.Dropped,
			FramesSent: a.FramesSent + b.FramesSent, FramesReceived: a.FramesReceived + b.FramesReceived,
			BytesSent: a.BytesSent + b.BytesSent, BytesReceived: a.BytesReceived + b.BytesReceived,
		}
	})
}

// mergeHeldBack shows the larger number: both may hold back the same partitions.
func mergeHeldBack(all []HeldBack) []HeldBack {
	return merge(all, func(h HeldBack) string { return h.Node }, func(a, b HeldBack) HeldBack {
		return HeldBack{Node: a.Node, Partitions: max(a.Partitions, b.Partitions)}
	})
}

// merge makes one of those that have the same name, in the order of the first.
func merge[T any](all []T, name func(T) string, both func(a, b T) T) []T {
	var merged []T
	at := map[string]int{}
	for _, x := range all {
		if i, known := at[name(x)]; known {
			merged[i] = both(merged[i], x)
			continue
		}
		at[name(x)] = len(merged)
		merged = append(merged, x)
	}
	return merged
}
