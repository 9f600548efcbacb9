package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Stands reports whether the kernel says of the node's process that it is stopped.
// It is ErrNotRunning if the node is down.
func (n *Node) Stands() (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state() == Down {
		return false, n.failed("look at", ErrNotRunning)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.process.PID()))
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNotRunning
	}
	if err != nil {
		return false, n.failed("look at", err)
	}
	return stopped(string(text)), nil
}

// stopped reads the state in /proc/PID/stat, which stands behind the program's name:
// that is in parentheses and may hold anything, parentheses too.
func stopped(stat string) bool {
	return strings.HasPrefix(stat[strings.LastIndex(stat, ")")+1:], " T")
}

// MayEnd says whether it is no trouble, from now on, that the node's process ends by
// itself: its disk fails, for example. What has ended by now is judged by what was
// said before.
func (n *Node) MayEnd(may bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noteEnd()
	n.mayEnd = may
}
