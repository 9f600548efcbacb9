package main

import (
	"context"
	"encoding/hex"
	"os"
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
// not worth a question. It carries no session unless it is told to.
func (f *clientFlags) dial() (*client.Client, error) {
	if f.p.asked = f.endpoints; f.via != "" {
		f.p.asked = []string{f.via}
	}
	c, err := client.New(client.Options{Endpoints: f.endpoints, Via: f.via, Timeout: f.timeout, NoRing: true, NoSession: true})
	if err != nil {
		return nil, usageErrorf("%w", err).hint("--endpoints http://127.0.0.1:7820")
	}
	return c, nil
}

// dataFlags are those of the commands about keys.
type dataFlags struct {
	clientFlags
	levelFlags
	sessionFlags
	verbose bool
	hexKey  bool
}

func (f *dataFlags) add(p *program, cmd *cobra.Command, write bool) {
	f.clientFlags.add(p, cmd)
	f.levelFlags.add(cmd, write)
	f.sessionFlags.add(cmd)
	what := "say on stderr who answered and how fresh it is"
	if write {
		what = "say on stderr what an eventual write had heard of"
	}
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, what)
}

func (f *dataFlags) addKey(cmd *cobra.Command) { addHexKey(cmd, &f.hexKey) }

func addHexKey(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "hex-key", false, "KEY is in hexadecimal")
}

func (f *dataFlags) key(arg string) ([]byte, error) { return keyOf(arg, f.hexKey) }

// keyOf is the bytes of the argument as they are, or what its hexadecimal says.
func keyOf(arg string, isHex bool) ([]byte, error) {
	if !isHex {
		return []byte(arg), nil
	}
	key, err := hex.DecodeString(arg)
	if err != nil {
		return nil, usageErrorf("key %q is not hexadecimal", arg)
	}
	return key, nil
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
