package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/api/client"
)

// endpointsVariable replaces the default of --endpoints.
const endpointsVariable = "CAPSTAN_ENDPOINTS"

// clientFlags are those of every command that talks to a cluster.
type clientFlags struct {
	p         *program
	endpoints []string
	via       string
	timeout   time.Duration
	output    string
}

func (f *clientFlags) add(p *program, cmd *cobra.Command) {
	f.p = p
	flags := cmd.Flags()
	flags.StringSliceVar(&f.endpoints, "endpoints", []string{client.DefaultEndpoint}, "nodes to ask, comma-separated (env "+endpointsVariable+")")
	flags.StringVar(&f.via, "via", "", "ask this `node` alone, by name or URL: no routing, no failover")
	flags.DurationVar(&f.timeout, "timeout", client.DefaultTimeout, "give up after this long")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if f.output != "text" && f.output != "json" {
			return usageErrorf("--output is text or json, not %q", f.output)
		}
		p.json = f.output == "json"
		if f.timeout <= 0 {
			return usageErrorf("--timeout must be above 0")
		}
		if env := os.Getenv(endpointsVariable); env != "" && !cmd.Flags().Changed("endpoints") {
			f.endpoints = strings.Split(env, ",")
		}
		for i := range f.endpoints {
			f.endpoints[i] = strings.TrimSpace(f.endpoints[i])
		}
		return nil
	}
}

// dial makes the client for one call: the endpoints forward it, so the ring is
// not worth a question.
func (f *clientFlags) dial() (*client.Client, error) {
	c, err := client.New(client.Options{Endpoints: f.endpoints, Via: f.via, Timeout: f.timeout, NoRing: true})
	if err != nil {
		return nil, usageErrorf("%w", err).hint("--endpoints http://127.0.0.1:7820")
	}
	return c, nil
}

// dataFlags are those of the commands about keys.
type dataFlags struct {
	clientFlags
	consistency  string
	cp, ap       bool
	maxStaleness time.Duration
	sessionFile  string
	verbose      bool
	hexKey       bool

	write bool
}

func (f *dataFlags) add(p *program, cmd *cobra.Command, write bool) {
	f.clientFlags.add(p, cmd)
	f.write = write
	flags := cmd.Flags()
	levels := "linearizable, bounded or eventual"
	if write {
		levels = "linearizable or eventual"
	}
	flags.StringVar(&f.consistency, "consistency", "linearizable", levels)
	flags.BoolVar(&f.cp, "cp", false, "short for --consistency linearizable")
	flags.BoolVar(&f.ap, "ap", false, "short for --consistency eventual")
	cmd.MarkFlagsMutuallyExclusive("consistency", "cp", "ap")
	if !write {
		flags.DurationVar(&f.maxStaleness, "max-staleness", 0, "how old a bounded read may be")
	}
	flags.StringVar(&f.sessionFile, "session-file", "", "keep a session's token in this `file`: see at least what it saw and wrote")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr who answered and how fresh it is")
}

func (f *dataFlags) addKey(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.hexKey, "hex-key", false, "KEY is in hexadecimal")
}

// key is the bytes of the argument as they are, or what its hexadecimal says.
func (f *dataFlags) key(arg string) ([]byte, error) {
	if !f.hexKey {
		return []byte(arg), nil
	}
	key, err := hex.DecodeString(arg)
	if err != nil {
		return nil, usageErrorf("key %q is not hexadecimal", arg)
	}
	return key, nil
}

// level is the consistency asked for, with the options that belong to it
// checked.
func (f *dataFlags) level(cmd *cobra.Command) (string, error) {
	level := f.consistency
	switch {
	case f.cp:
		level = "linearizable"
	case f.ap:
		level = "eventual"
	}
	switch level {
	case "linearizable", "eventual":
	case "bounded":
		if f.write {
			return "", usageErrorf("a write is linearizable or eventual, never bounded")
		}
		if f.maxStaleness <= 0 {
			return "", usageErrorf("a bounded read needs --max-staleness").hint("--consistency bounded --max-staleness 5s")
		}
		return level, nil
	default:
		e := usageErrorf("unknown consistency %q", level)
		if near := closest(level, []string{"linearizable", "bounded", "eventual"}); near != "" {
			return "", e.hint("--consistency " + near)
		}
		return "", e.hint("--consistency linearizable, bounded or eventual")
	}
	if cmd.Flags().Changed("max-staleness") {
		return "", usageErrorf("--max-staleness belongs to --consistency bounded")
	}
	return level, nil
}

// readOption is the level of a Get or Scan.
func (f *dataFlags) readOption(cmd *cobra.Command) (interface {
	client.GetOption
	client.ScanOption
}, error) {
	level, err := f.level(cmd)
	if err != nil {
		return nil, err
	}
	switch level {
	case "bounded":
		return client.Bounded(f.maxStaleness), nil
	case "eventual":
		return client.Eventual(), nil
	}
	return client.Linearizable(), nil
}

// session reads the token, if there is one yet.
func (f *dataFlags) session() (client.SessionOption, error) {
	if f.sessionFile == "" {
		return client.Session(""), nil
	}
	token, err := os.ReadFile(f.sessionFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, usageErrorf("session file: %w", err)
	}
	return client.Session(strings.TrimSpace(string(token))), nil
}

// keep writes the token back, in one piece.
func (f *dataFlags) keep(token string) error {
	if f.sessionFile == "" || token == "" {
		return nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(f.sessionFile), ".session-*")
	if err != nil {
		return failuref("done, but the session's token cannot be kept: %w", err)
	}
	defer func() { _ = os.Remove(temporary.Name()) }() // gone already if all went well
	_, err = temporary.WriteString(token + "\n")
	err = errors.Join(err, temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), f.sessionFile)
	}
	if err != nil {
		return failuref("done, but the session's token cannot be kept: %w", err)
	}
	return nil
}

// with makes a client, uses it, and closes it.
func (f *clientFlags) with(ctx context.Context, use func(context.Context, *client.Client) error) error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	f.p.waiting = startWaiting(f.p.stderr)
	defer f.p.waiting.stop()
	return use(ctx, c)
}
