package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// readyPoll is how often a node is asked whether it is ready.
	readyPoll = 25 * time.Millisecond
	// askTimeout bounds one question: a node may be paused, or cut off.
	askTimeout = time.Second
	// tailBytes is how much of a log an error shows.
	tailBytes = 2048
)

// web asks each time on a new connection, and never through a proxy.
var web = &http.Client{Timeout: askTimeout, Transport: &http.Transport{DisableKeepAlives: true}}

// Ready is nil if the node serves linearizable requests now, or says what it
// answered.
func (n *Node) Ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+"/readyz?level=linearizable", nil)
	if err != nil {
		return err
	}
	answer, err := web.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, tailBytes))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(said)))
	}
	return err
}

// AwaitReady waits until the node serves linearizable requests, and fails when
// its process ends or ctx does. The error shows the end of the log.
func (n *Node) AwaitReady(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := n.Ready(ctx)
		if err == nil {
			return nil
		}
		if n.State() == Down {
			err = errors.Join(ErrNotRunning, err)
		} else {
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
				err = errors.Join(ctx.Err(), err)
			}
		}
		return fmt.Errorf("%s is not ready: %w\n%s ends:\n%s", n.Name, err, n.LogFile, tail(n.LogFile))
	}
}

// tail is the end of a file, or why it cannot be read.
func tail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		_, _ = file.Seek(-tailBytes, io.SeekEnd) // else all of it
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
