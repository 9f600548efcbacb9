package jepsen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// face is what is asked of a cluster beside operations, each time at one node.
type face interface {
	status(ctx context.Context, node string) (*capstanv1.GetStatusResponse, error)
	// locate is the partition of a key.
	locate(ctx context.Context, node, key string) (int, error)
	// fate waits up to wait for a write to be decided.
	fate(ctx context.Context, node, receipt string, wait time.Duration) (fate, version string, err error)
	conflicts(ctx context.Context, node string) ([]history.Conflict, error)
	// conflictsDropped reports whether a list that the node holds was ever full. It is
	// not told by a node that holds none.
	conflictsDropped(ctx context.Context, node string) (dropped, told bool, err error)
	// holds are all entries as an eventual read of the node gives them.
	holds(ctx context.Context, node string) ([]history.Entry, error)
	// remove takes a node out of the cluster, with the writes that only it held.
	remove(ctx context.Context, node, id string) error
	lead(ctx context.Context, node string, partition int) (leader string, err error)
	cut(ctx context.Context, node string, from []string) error
}

// questionTimeout bounds one question of a face, beside what it waits for.
const questionTimeout = 5 * time.Second

func (a *asked) of(node string) (*client.Client, error) {
	if c := a.nodes[node]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no node %q", node)
}

func (a *asked) status(ctx context.Context, node string) (*capstanv1.GetStatusResponse, error) {
	c, err := a.of(node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	return c.Status(ctx)
}

func (a *asked) lead(ctx context.Context, node string, partition int) (string, error) {
	status, err := a.status(ctx, node)
	if err != nil {
		return "", err
	}
	for _, p := range status.GetPartitions() {
		if int(p.GetId()) == partition && p.GetLeader() != "" {
			return p.GetLeader(), nil
		}
	}
	return "", fmt.Errorf("%s knows no leader of partition %d", node, partition)
}

func (a *asked) locate(ctx context.Context, node, key string) (int, error) {
	c, err := a.of(node)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	r, err := c.Locate(ctx, []byte(key))
	return int(r.GetPartition()), err
}

func (a *asked) fate(ctx context.Context, node, receipt string, wait time.Duration) (fate, version string, err error) {
	c, err := a.of(node)
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, wait+questionTimeout)
	defer cancel()
	r, err := c.AwaitWrite(ctx, receipt, wait)
	if err != nil {
		return "", "", err
	}
	return strings.ToLower(strings.TrimPrefix(r.Fate.String(), "FATE_")), versionText(r.Version), nil
}

func (a *asked) conflicts(ctx context.Context, node string) ([]history.Conflict, error) {
	c, err := a.of(node)
	if err != nil {
		return nil, err
	}
	var found []history.Conflict
	for x, err := range c.Conflicts(ctx) {
		if err != nil {
			return nil, err
		}
		cause := "older"
		if x.Cause == capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE {
			cause = "stale-base"
		}
		found = append(found, history.Conflict{
			Key: string(x.Key), Value: string(x.LosingValue), Delete: x.LosingDelete,
			Losing: versionText(x.LosingVersion), Winning: versionText(x.WinningVersion), Cause: cause,
		})
	}
	return found, nil
}

func (a *asked) holds(ctx context.Context, node string) ([]history.Entry, error) {
	c, err := a.of(node)
	if err != nil {
		return nil, err
	}
	var found []history.Entry
	for e, err := range c.Scan(ctx, client.Eventual()) {
		if err != nil {
			return nil, err
		}
		found = append(found, history.Entry{Key: string(e.Key), Value: string(e.Value), Version: versionText(e.Version)})
	}
	return found, nil
}

func (a *asked) remove(ctx context.Context, node, id string) error {
	c, err := a.of(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	_, err = c.RemoveNode(ctx, id, true)
	return err
}

func (a *asked) cut(ctx context.Context, node string, from []string) error {
	c, err := a.of(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	return c.SetCut(ctx, a.urls[node], from)
}

// web asks nodes' plain HTTP, and never through a proxy.
var web = &http.Client{Timeout: questionTimeout, Transport: &http.Transport{DisableKeepAlives: true}}

const (
	droppedMetric = "capstan_conflicts_dropped_total"
	maxMetrics    = 16 << 20 // bytes
)

func (a *asked) conflictsDropped(ctx context.Context, node string) (full, told bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.urls[node]+"/metrics", nil)
	if err != nil {
		return false, false, err
	}
	answer, err := web.Do(request)
	if err != nil {
		return false, false, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return false, false, errors.New(answer.Status)
	}
	return dropped(io.LimitReader(answer.Body, maxMetrics))
}

// dropped reports whether, by a node's metrics, a list of conflicts was ever full, and
// whether they speak of any.
func dropped(metrics io.Reader) (full, told bool, err error) {
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), "{")
		if name != droppedMetric {
			continue
		}
		told = true
		if i := strings.LastIndexByte(rest, ' '); i >= 0 && rest[i+1:] != "0" {
			return true, true, nil
		}
	}
	return false, told, lines.Err()
}
