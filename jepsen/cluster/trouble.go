package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Bounds of what Trouble tells: the rest is in the logs.
const (
	maxTroubles     = 20 // a node
	maxTroubleBytes = 300
)

// Trouble is what a node should never do, whatever is done to it.
type Trouble struct {
	Node string `json:"node"`
	File string `json:"file"`           // the log
	Line int    `json:"line,omitempty"` // in it; 0: not of one line
	What string `json:"what"`
}

func (t Trouble) String() string {
	if t.Line == 0 {
		return t.What
	}
	return fmt.Sprintf("%s:%d: %s", t.File, t.Line, t.What)
}

// Trouble looks through the logs for panics, fatal errors of the runtime and data
// races, and tells which processes ended though nobody had asked them to. Each
// node's is bounded.
func (c *Cluster) Trouble() ([]Trouble, error) {
	var all []Trouble
	var failed error
	for _, n := range c.nodes {
		found, err := n.trouble()
		all, failed = append(all, found...), errors.Join(failed, err)
	}
	return all, failed
}

func (n *Node) trouble() ([]Trouble, error) {
	n.mu.Lock()
	n.noteEnd()
	var found []Trouble
	for _, end := range n.alone {
		found = append(found, Trouble{Node: n.Name, File: n.LogFile, What: end})
	}
	n.mu.Unlock()
	file, err := os.Open(n.LogFile)
	if errors.Is(err, os.ErrNotExist) {
		return found, nil // it was never started
	}
	if err != nil {
		return found, err
	}
	defer file.Close()
	reader := bufio.NewReader(file)
	for line := 1; len(found) < maxTroubles; line++ {
		text, err := reader.ReadString('\n')
		if text = strings.TrimSpace(text); bad(text) {
			found = append(found, Trouble{Node: n.Name, File: n.LogFile, Line: line, What: text[:min(len(text), maxTroubleBytes)]})
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// bad reports whether no correct process says this line.
func bad(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "unexpected fault address") ||
		strings.HasPrefix(line, "WARNING: DATA RACE") || strings.Contains(line, "http: panic serving")
}
