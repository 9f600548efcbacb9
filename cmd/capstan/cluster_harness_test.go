//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

// clusterPatience bounds each wait for a state of a cluster. It takes seconds
// on an idle machine; a busy one may be many times slower.
const clusterPatience = 60 * time.Second

// poll is how often a condition is looked at.
const poll = 20 * time.Millisecond

// cluster is real capstan processes on loopback. It has a /24 of its own, node
// i on .i, so that clusters never meet.
type cluster struct {
	t       *testing.T
	network string // "127.x.y."
	dir     string
	life    *os.File // closes with this process, and with it the nodes
	pipe    *os.File // their end of it
	nodes   []*serving
}

// serving is a node: one process after another on one data directory.
type serving struct {
	c        *cluster
	name, ip string
	dir, log string
	args     []string
	disk     string // size of a disk of its own, if not empty
	binary   string // another build than this one, if not empty
	env      []string
	control  string   // the path of its control file, if it can be bent
	stderr   *os.File // where its log goes instead of the file log, if not nil

	cmd    *exec.Cmd
	exited chan struct{} // of the latest process
}

// newCluster prepares nodes n1.. and starts none. All of them are to form the
// cluster, unless args say otherwise.
func newCluster(t *testing.T, count int, args ...string) *cluster {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, network: freeNetwork(t), dir: t.TempDir(), life: writer, pipe: reader}
	t.Cleanup(c.end)
	for i := 1; i <= count; i++ {
		c.add(fmt.Sprintf("n%d", i), append([]string{"--bootstrap-expect", fmt.Sprint(count)}, args...)...)
	}
	return c
}

// freeNetwork is a /24 of 127/8 that nobody listens on, or ever will: there are
// 64 thousand, and the choice is random.
func freeNetwork(t *testing.T) string {
	t.Helper()
	for range 100 {
		network := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), 1+rand.IntN(254))
		l, err := net.Listen("tcp", network+"1:7820")
		if err == nil {
			l.Close()
			return network
		}
	}
	t.Fatal("no free network in 127/8")
	return ""
}

// add prepares one more node.
func (c *cluster) add(name string, args ...string) *serving {
	i := len(c.nodes) + 1
	n := &serving{c: c, name: name, ip: fmt.Sprint(c.network, i), dir: filepath.Join(c.dir, name), log: filepath.Join(c.dir, name+".log")}
	n.args = append([]string{
		"--name", name, "--data-dir", n.dir, "--listen", n.ip + ":7820", "--listen-peer", n.ip + ":7821", "--listen-gossip", n.ip + ":7822",
		"--exit-with-fd", "3",
	}, args...)
	if !slices.Contains(args, "--join") {
		n.args = append(n.args, "--join", fmt.Sprintf("%s1,%s2,%s3", c.network, c.network, c.network))
	}
	c.nodes = append(c.nodes, n)
	return n
}

// startCluster starts all of count nodes at once and waits until they serve.
func startCluster(t *testing.T, count int, args ...string) *cluster {
	t.Helper()
	c := newCluster(t, count, args...)
	for _, n := range c.nodes {
		n.start()
	}
	c.untilReady(c.nodes...)
	return c
}

// program is a capstan process that is not started yet.
func capstan(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CAPSTAN_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, childVariable+"="+childWhole)
	// The pipe ends a node whose test is gone, in order. A paused one does not
	// see it, hence the signal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (n *serving) start() {
	n.c.t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer log.Close()
	cmd := capstan(context.Background(), append([]string{"serve"}, n.args...)...)
	if n.binary != "" {
		cmd.Path = n.binary
	}
	cmd.Env = append(cmd.Env, n.env...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{n.c.pipe}
	if n.stderr != nil {
		cmd.Stderr = n.stderr
	}
	if n.disk != "" {
		ownDisk(cmd, n.disk, n.dir)
	}
	if err := cmd.Start(); err != nil {
		n.c.t.Fatal(err)
	}
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
}

func (n *serving) signal(s syscall.Signal) {
	n.c.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.c.t.Errorf("%s to %s: %v", s, n.name, err)
	}
}

// pause stops the process where it is; it does nothing any more on return.
func (n *serving) pause() {
	n.c.t.Helper()
	n.signal(syscall.SIGSTOP)
	if err := awaitStopped(n.cmd.Process.Pid); err != nil {
		n.c.t.Errorf("pause of %s: %v", n.name, err)
	}
}

// kill is a power cut of the process: no handler runs.
func (n *serving) kill() {
	n.c.t.Helper()
	n.signal(syscall.SIGKILL)
	n.exit()
}

// exit waits for the process to end and returns its status.
func (n *serving) exit() int {
	n.c.t.Helper()
	select {
	case <-n.exited:
	case <-time.After(clusterPatience):
		n.c.t.Fatalf("%s did not end in %s", n.name, clusterPatience)
	}
	return n.cmd.ProcessState.ExitCode()
}

func (n *serving) running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *serving) url() string { return "http://" + n.ip + ":7820" }

// ready asks /readyz, for linearizable requests.
func (n *serving) ready() error {
	if !n.running() {
		return errors.New("it is not running")
	}
	status, _, body, err := plain(http.MethodGet, n.url()+"/readyz?level=linearizable", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %s", status, body)
	}
	return err
}

// untilReady waits until nodes serve linearizable requests.
func (c *cluster) untilReady(nodes ...*serving) {
	c.t.Helper()
	for _, n := range nodes {
		c.until(n.name+" is ready", n.ready)
	}
}

// until waits for a condition; its error says what is still missing.
func (c *cluster) until(what string, missing func() error) {
	c.t.Helper()
	for end := time.Now().Add(clusterPatience); ; time.Sleep(poll) {
		err := missing()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("not in %s: %s: %v", clusterPatience, what, err)
		}
	}
}

// end kills what runs. A node that found a data race or panicked fails the test,
// and a failed test shows what the nodes said.
func (c *cluster) end() {
	for _, n := range c.nodes {
		if n.running() {
			_ = n.cmd.Process.Kill()
			<-n.exited
		}
	}
	c.life.Close()
	c.pipe.Close()
	for _, n := range c.nodes {
		text, _ := os.ReadFile(n.log)
		for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if at := bytes.Index(text, []byte(bad)); at >= 0 {
				c.t.Errorf("%s:\n%s", n.name, text[at:min(len(text), at+8000)])
				break
			}
		}
		if c.t.Failed() {
			c.t.Logf("%s said last:\n%s", n.name, lastLines(text, 40))
		}
	}
}

func (c *cluster) urls() []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.url())
	}
	return urls
}

// client is one that routes by the ring, or with via one that asks that node
// alone.
func (c *cluster) client(via *serving) *client.Client {
	c.t.Helper()
	o := client.Options{Endpoints: c.urls()}
	if via != nil {
		o.Via = via.url()
	}
	made, err := client.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = made.Close() })
	return made
}

// leader is the node that leads the partition of key, as from sees it.
func (c *cluster) leader(from *serving, key string) (*serving, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	asker, err := client.New(client.Options{Via: from.url(), Endpoints: []string{from.url()}})
	if err != nil {
		return nil, err
	}
	defer asker.Close()
	located, err := asker.Locate(ctx, []byte(key))
	if err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if name, _, _ := strings.Cut(located.GetLeader(), "-"); name == n.name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no leader known at %s", from.name)
}

// status is the cluster as n sees it.
func (n *serving) status() (*capstanv1.GetStatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	asker, err := client.New(client.Options{Via: n.url(), Endpoints: []string{n.url()}})
	if err != nil {
		return nil, err
	}
	defer asker.Close()
	return asker.Status(ctx)
}

// web opens a connection a request: a node that died and came back is asked
// anew.
var web = &http.Client{
	Timeout: 30 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, ExpectContinueTimeout: 5 * time.Second,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// plain is a request as curl sends it. Headers are "Name: value".
func plain(method, url, body string, headers ...string) (status int, header http.Header, answer string, err error) {
	var from io.Reader
	if body != "" || method == http.MethodPut {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, url, from)
	if err != nil {
		return 0, nil, "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	got, err := web.Do(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	return got.StatusCode, got.Header, string(text), err
}

// command runs the program as a process of its own to its end.
func (c *cluster) command(stdin string, args ...string) (stdout, stderr string, status int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clusterPatience)
	defer cancel()
	cmd := capstan(ctx, args...)
	cmd.Env = append(cmd.Env, endpointsVariable+"="+strings.Join(c.urls(), ","))
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// together runs the functions at once and waits for all of them.
func together(fs ...func()) {
	var wait sync.WaitGroup
	for _, f := range fs {
		wait.Go(f)
	}
	wait.Wait()
}
