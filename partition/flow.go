package partition

import "math"

// flow is a minimum-cost flow that starts from a given one: each edge has a
// lower and an upper bound, a cost a unit and a flow within the bounds; where
// inflow and outflow of a vertex differ, it has excess. solve moves the
// excess to where it lacks by successive shortest paths. The start must be
// optimal for what it carries (no cycle of the residual graph has a negative
// cost), which holds wherever edges in use cost nothing and the others cost
// something: then the result is the cheapest flow there is.
//
// Everything is in slices and visited in order, so equal inputs give equal
// flows.
type flow struct {
	edges  []edge  // edge i and its reverse i^1
	out    [][]int // edges by the vertex they leave
	excess []int

	distance []int
	visited  []bool
}

type edge struct {
	to, room, cost int // room is what more can flow
}

// vertices adds n vertices and is the number of the first.
func (f *flow) vertices(n int) int {
	first := len(f.out)
	f.out = append(f.out, make([][]int, n)...)
	f.excess = append(f.excess, make([]int, n)...)
	return first
}

// edge adds an edge that carries flow, and is its number.
func (f *flow) edge(from, to, low, high, flow, cost int) int {
	f.edges = append(f.edges, edge{to, high - flow, cost}, edge{from, flow - low, -cost})
	i := len(f.edges) - 2
	f.out[from] = append(f.out[from], i)
	f.out[to] = append(f.out[to], i+1)
	f.excess[from] -= flow
	f.excess[to] += flow
	return i
}

// carried is the flow of an edge whose lower bound is 0.
func (f *flow) carried(i int) int { return f.edges[i^1].room }

// solve moves all excess away. It reports false, with the flow half done, if
// that cannot be.
func (f *flow) solve() bool {
	for {
		pending := false
		for _, e := range f.excess {
			pending = pending || e > 0
		}
		if !pending {
			return true
		}
		nearest := f.measure()
		if nearest == math.MaxInt {
			return false
		}
		// Every path of that length keeps the flow optimal, so take as many
		// as are found before measuring again.
		f.visited = make([]bool, len(f.out))
		for v := range f.out {
			for f.excess[v] > 0 && f.distance[v] == 0 && f.push(v, nearest) {
				f.excess[v]--
			}
		}
	}
}

// measure sets the distance of each vertex from those with excess and is that
// of the nearest that lacks (Bellman and Ford, with a queue).
func (f *flow) measure() int {
	f.distance = make([]int, len(f.out))
	queued := make([]bool, len(f.out))
	var queue []int
	for v := range f.out {
		f.distance[v] = math.MaxInt
		if f.excess[v] > 0 {
			f.distance[v], queued[v] = 0, true
			queue = append(queue, v)
		}
	}
	for len(queue) > 0 {
		v := queue[0]
		queue, queued[v] = queue[1:], false
		for _, i := range f.out[v] {
			e := f.edges[i]
			if e.room == 0 || f.distance[v]+e.cost >= f.distance[e.to] {
				continue
			}
			f.distance[e.to] = f.distance[v] + e.cost
			if !queued[e.to] {
				queued[e.to] = true
				queue = append(queue, e.to)
			}
		}
	}
	nearest := math.MaxInt
	for v, e := range f.excess {
		if e < 0 {
			nearest = min(nearest, f.distance[v])
		}
	}
	return nearest
}

// push sends one unit from v along a shortest path to a vertex that lacks.
func (f *flow) push(v, nearest int) bool {
	if f.excess[v] < 0 && f.distance[v] == nearest {
		f.excess[v]++
		return true
	}
	f.visited[v] = true
	for _, i := range f.out[v] {
		e := &f.edges[i]
		if e.room == 0 || f.visited[e.to] || f.distance[v]+e.cost != f.distance[e.to] {
			continue
		}
		if f.push(e.to, nearest) {
			e.room--
			f.edges[i^1].room++
			f.visited[v] = false
			return true
		}
	}
	return false
}
