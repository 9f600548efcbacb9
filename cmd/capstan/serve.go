package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/node"
)

// server is a running node.
type server interface {
	// Addr tells where it listens.
	Addr() (api, peer, gossip string)
	// Done ends when the node has stopped by itself; Err then says why.
	Done() <-chan struct{}
	Err() error
	// Close hands leadership away and stops.
	Close() error
}

// opener starts a node.
type opener func(context.Context, node.Config) (server, error)

// serveGCPercent lets garbage grow to four times what lives before it is
// collected, unless GOGC says otherwise: what lives is small beside the block
// caches, which are outside the heap, and at Go's default of 100 a busy node
// spends a good part of its time collecting. Near the memory limit the runtime
// collects earlier.
const serveGCPercent = 400

// orphanGrace is how long a child whose parent is gone may take to stop.
const orphanGrace = 8 * time.Second

// failedGrace is how long a node that has failed may take to close: what it
// failed of, a disk above all, may hold on to it for ever. Longer than the
// bounded waits of an orderly close; a variable for tests.
var failedGrace = 10 * time.Second

// errOrphan ends a child whose parent is gone.
var errOrphan = errors.New("the parent process has ended")

func (p *program) serveCommand() *cobra.Command {
	var s serveSettings
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run a node",
		Long: `Runs a node until SIGINT or SIGTERM, which hand leadership away first; a second
signal ends it at once. SIGHUP is ignored. A log that nobody reads, or that
cannot be written, does not hold the node up: lines are dropped and counted.

Each flag may also be given as CAPSTAN_<FLAG> (CAPSTAN_DATA_DIR) or, under its
own name, in a YAML file named by --config. The flag wins over the variable, the
variable over the file.`,
		Example: `  capstan serve --name n1 --data-dir /var/lib/capstan-kv     # a cluster of one
  capstan serve --name n1 --data-dir d1 --bootstrap-expect 3 \
      --listen 10.0.0.1:7820 --listen-peer 10.0.0.1:7821 --listen-gossip 10.0.0.1:7822 \
      --join 10.0.0.1,10.0.0.2,10.0.0.3 --insecure
  capstan serve --config /etc/capstan-kv/n1.yaml`,
		Args: arguments(),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return fillFlags(cmd.Flags(), os.LookupEnv, os.ReadFile)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return p.serve(cmd.Context(), &s)
		},
	}
	s.add(cmd.Flags())
	return cmd
}

func (p *program) serve(ctx context.Context, s *serveSettings) error {
	if p.open == nil {
		return failuref("this binary was built without a server")
	}
	stderr := p.neverWait()
	logger := slog.New(s.handler(stderr))
	stderr.noteWith(func(lines uint64, cause error) []byte {
		var text bytes.Buffer
		slog.New(s.handler(&text)).Warn("log lines were dropped: stderr was not read in time, or refused them",
			"lines", lines, "err", cause)
		return text.Bytes()
	})
	// What the standard library tells the default logger: net/http, above all.
	log.SetFlags(0)
	log.SetOutput(slog.NewLogLogger(logger.Handler(), slog.LevelWarn).Writer())
	s.config.Logger, s.config.LogDropped = logger, stderr.dropped
	defer ignoreHangup(logger)()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.exitWithFD >= 0 {
		s.watchParent(cancel, p)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(serveGCPercent)
	}
	s.limitMemory(logger)
	s.checkFiles(logger)
	s.checkDirectory(logger)
	running, err := p.open(ctx, s.config)
	if err != nil {
		if ctx.Err() != nil {
			s.forget(ctx)
			return nil // stopped while it started
		}
		if refused := (*node.ConfigError)(nil); errors.As(err, &refused) {
			return usageErrorf("%w", err)
		}
		return serveFailure(err)
	}
	api, peer, gossip := running.Addr()
	logger.Info("serving", "name", s.config.Name, "api", api, "peer", peer, "gossip", gossip)
	select {
	case <-ctx.Done():
		logger.Info("stopping", "cause", context.Cause(ctx))
		err = running.Close()
	case <-running.Done():
		err = closeFailed(running)
		if err == nil {
			err = errors.New("the node stopped by itself")
		}
	}
	s.forget(ctx)
	if err != nil {
		return serveFailure(err)
	}
	logger.Info("stopped")
	return nil
}

// serveFailure gives a refused data directory a status of its own: starting the
// node again cannot help, so that a supervisor should not try.
func serveFailure(err error) error {
	if errors.Is(err, node.ErrRefused) {
		return &exitError{status: exitRefused, err: err}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return failuref("%w", err).hint("make room on the disk of --data-dir, then start the node again")
	}
	return failuref("%w", err)
}

// closeFailed closes a node that has stopped by itself and says why it has. It
// does not wait for ever: the process must end, so that another one can begin.
func closeFailed(s server) error {
	cause := s.Err()
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }() // left behind if it hangs: the process ends
	grace := time.NewTimer(failedGrace)
	defer grace.Stop()
	select {
	case err := <-closed:
		return errors.Join(cause, err)
	case <-grace.C:
		return errors.Join(cause, fmt.Errorf("not closed within %s", failedGrace))
	}
}

// watchParent ends a child when the pipe that it inherited closes: the parent
// is gone, however it went.
func (s *serveSettings) watchParent(cancel context.CancelCauseFunc, p *program) {
	pipe := os.NewFile(uintptr(s.exitWithFD), "parent")
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		cancel(errOrphan)
		time.AfterFunc(orphanGrace, func() {
			s.config.Logger.Error("not stopped in time after the parent ended", "within", orphanGrace)
			p.flush()
			s.removeData()
			os.Exit(exitFailed)
		})
	}()
}

// ignoreHangup keeps a node running when its terminal closes or somebody sends
// SIGHUP to reload a configuration: a node reads it once, at its start. The
// caller ends it. Other signals but SIGINT, SIGTERM, SIGQUIT (a dump) and those
// of a broken program do nothing in a Go program.
func ignoreHangup(logger *slog.Logger) (end func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for range hangups {
			logger.Info("SIGHUP ignored: a node reads its configuration at its start; SIGTERM stops it")
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
	}
}

// forget deletes the data of a temporary node whose parent has ended.
func (s *serveSettings) forget(ctx context.Context) {
	if errors.Is(context.Cause(ctx), errOrphan) {
		s.removeData()
	}
}

// removeData leaves nothing of a temporary node: its data, its log, and the
// directory of all of them if this one was the last.
func (s *serveSettings) removeData() {
	if !s.ephemeral {
		return
	}
	_ = os.RemoveAll(s.config.DataDir)
	_ = os.Remove(s.config.DataDir + ".log")
	_ = os.Remove(filepath.Dir(s.config.DataDir)) // refused unless it is empty
}
