package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/api/client"
)

// maxValue is read from a file or stdin; no server takes more in one message.
const maxValue = 4 << 20

func (p *program) getCommand() *cobra.Command {
	var f dataFlags
	var replicas uint32
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "print the value of a key",
		Long: `Prints the value as it is, with a newline only on a terminal. Exit status 1 if
there is no such key.`,
		Example: `  capstan get cart:42
  capstan get -v cart:42                  # and who answered, how fresh, on stderr
  capstan get --ap --via n3 cart:42       # whatever n3 knows
  capstan get --consistency bounded --max-staleness 5s cart:42
  capstan get -o json cart:42`,
		Args: arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := f.level(cmd)
			if err != nil {
				return err
			}
			key, err := f.key(args[0])
			if err != nil {
				return err
			}
			session, err := f.sessionFlags.option()
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				r, err := c.Get(ctx, key, f.readOption(level), session, client.Replicas(replicas))
				if err != nil {
					return f.keepFailed(err)
				}
				return p.printGet(&f, key, r)
			})
		},
	}
	f.add(p, cmd, false)
	f.addKey(cmd)
	cmd.Flags().Uint32Var(&replicas, "replicas", 0, "ask so many replicas and take the newest answer, eventual reads only (0: 1)")
	return cmd
}

func (p *program) printGet(f *dataFlags, key []byte, r *client.GetResult) error {
	if err := f.keep(r.Session); err != nil {
		return err
	}
	switch {
	case p.json:
		if err := p.printJSON(r.Message()); err != nil {
			return err
		}
	case r.Found:
		value := r.Value
		if terminal(p.stdout) {
			value = append(value, '\n')
		}
		if err := p.write(value); err != nil {
			return err
		}
		if f.verbose && !terminal(p.stdout) && terminal(p.stderr) {
			p.note("")
		}
	default:
		p.note("not found: %s", visible(key))
	}
	if f.verbose {
		p.note("%s", freshness(r.Freshness, r.Version))
	}
	if !r.Found {
		return &exitError{status: exitNo}
	}
	return nil
}

// writeFlags are those of put and delete.
type writeFlags struct {
	dataFlags
	acks                uint32
	ifAbsent, ifPresent bool
	ifVersion           string
}

func (f *writeFlags) add(p *program, cmd *cobra.Command) {
	f.dataFlags.add(p, cmd, true)
	f.addKey(cmd)
	flags := cmd.Flags()
	flags.Uint32Var(&f.acks, "acks", 0, "answer once so many nodes have it on disk, eventual writes only (0: 1)")
	flags.BoolVar(&f.ifAbsent, "if-absent", false, "only if the key is absent")
	flags.BoolVar(&f.ifPresent, "if-present", false, "only if the key is present")
	flags.StringVar(&f.ifVersion, "if-version", "", "only if the key's `version` is this one")
	cmd.MarkFlagsMutuallyExclusive("if-absent", "if-present", "if-version")
}

func (f *writeFlags) options(cmd *cobra.Command) ([]client.WriteOption, error) {
	level, err := f.level(cmd)
	if err != nil {
		return nil, err
	}
	session, err := f.sessionFlags.option()
	if err != nil {
		return nil, err
	}
	opts := []client.WriteOption{writeOption(level), session, client.Acks(f.acks)}
	switch {
	case f.ifAbsent:
		opts = append(opts, client.IfAbsent())
	case f.ifPresent:
		opts = append(opts, client.IfPresent())
	case f.ifVersion != "":
		v, err := client.ParseVersion(f.ifVersion)
		if err != nil {
			return nil, usageErrorf("--if-version: %w", err)
		}
		opts = append(opts, client.IfVersion(v))
	}
	return opts, nil
}

// written prints what became of a write.
func (p *program) written(ctx context.Context, c *client.Client, f *writeFlags, key []byte, w writeResult) error {
	if w.receipt == "" {
		return p.printf("committed   %s  by %s%s\n", w.version, w.servedBy, w.note)
	}
	err := p.printf("tentative   receipt %s  on disk at %s  by %s\n", w.receipt, holders(ctx, c, key, w.version, max(1, f.acks)), w.servedBy)
	if err == nil && f.verbose {
		p.note("tentative %s, had heard of the partition's log up to %d", w.version, w.base)
	}
	return err
}

// writeResult is the answer to a put or a delete.
type writeResult struct {
	version           client.Version
	receipt, servedBy string
	base              uint64
	note              string
}

// holders says where an eventual write is on disk: at so many replicas, if the node that
// accepted it is one. Another node keeps a copy besides the replicas that it reaches, and
// does not say how many those are.
func holders(ctx context.Context, c *client.Client, key []byte, v client.Version, acks uint32) string {
	located, err := c.Locate(ctx, key)
	if err != nil {
		return count(int(acks), "node") // the write is done all the same
	}
	accepted := nameOfID(v.Node)
	for _, r := range located.GetReplicas() {
		if r == accepted || r == v.Node {
			return fmt.Sprintf("%d of %s", acks, count(len(located.GetReplicas()), "replica"))
		}
	}
	return count(int(acks), "node")
}

// nameOfID is a node's name: its id is that and random characters.
func nameOfID(id string) string {
	if at := strings.LastIndexByte(id, '-'); at > 0 {
		return id[:at]
	}
	return id
}

func (p *program) putCommand() *cobra.Command {
	var f writeFlags
	var file string
	cmd := &cobra.Command{
		Use:   "put KEY VALUE|-|--file FILE",
		Short: "write a value",
		Long: `Writes a value. A linearizable write is answered when a quorum has it on disk, or
refused. An eventual one (--ap) is answered when --acks nodes have it on disk,
whatever can be reached, with a receipt that capstan await takes: it is committed
later, or loses to another write and is listed by capstan conflicts. Conditions
(--if-...) belong to linearizable writes.`,
		Example: `  capstan put cart:42 apple
  capstan put cart:42 - < apple.json
  capstan put cart:42 --file apple.json
  capstan put --if-absent lock:7 me       # exit status 1 if it is there
  capstan put --ap cart:42 pear           # taken by any node, committed later
  capstan put --ap --acks 2 cart:42 pear  # once two nodes have it on disk
  capstan put -- temperature -5           # a value that begins with a dash`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("file") {
				return arguments("KEY")(cmd, args)
			}
			err := arguments("KEY", "VALUE")(cmd, args)
			var usage *exitError
			if len(args) == 1 && errors.As(err, &usage) {
				return usage.hint("capstan put KEY - reads the value from standard input")
			}
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options(cmd)
			if err != nil {
				return err
			}
			key, err := f.key(args[0])
			if err != nil {
				return err
			}
			value, err := p.value(args[1:], file)
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				r, err := c.Put(ctx, key, value, opts...)
				if err != nil {
					return f.keepFailed(err)
				}
				if err := f.keep(r.Session); err != nil {
					return err
				}
				if p.json {
					return p.printJSON(r.Message())
				}
				return p.written(ctx, c, &f, key, writeResult{version: r.Version, receipt: r.Receipt, servedBy: r.ServedBy, base: r.Base})
			})
		},
	}
	f.add(p, cmd)
	cmd.Flags().StringVar(&file, "file", "", "the value is what this `file` holds")
	return cmd
}

// value is the argument, or what stdin or a file holds.
func (p *program) value(args []string, file string) ([]byte, error) {
	from := p.stdin
	switch {
	case len(args) == 1 && args[0] != "-":
		return []byte(args[0]), nil
	case len(args) == 0:
		f, err := os.Open(file)
		if err != nil {
			return nil, usageErrorf("%w", err)
		}
		defer f.Close()
		from = f
	}
	value, err := io.ReadAll(io.LimitReader(from, maxValue+1))
	if err != nil {
		return nil, usageErrorf("the value cannot be read: %w", err)
	}
	if len(value) > maxValue {
		return nil, usageErrorf("the value has more than %d bytes", maxValue)
	}
	return value, nil
}

func (p *program) deleteCommand() *cobra.Command {
	var f writeFlags
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "delete a key",
		Long:  `Deletes a key. That it was absent is no failure: exit status 0.`,
		Example: `  capstan delete cart:42
  capstan delete --if-version 12-117309440000000003-n1-k3f9 cart:42
  capstan delete --ap cart:42             # taken by any node, committed later`,
		Args: arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options(cmd)
			if err != nil {
				return err
			}
			key, err := f.key(args[0])
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				r, err := c.Delete(ctx, key, opts...)
				if err != nil {
					return f.keepFailed(err)
				}
				if err := f.keep(r.Session); err != nil {
					return err
				}
				if p.json {
					return p.printJSON(r.Message())
				}
				note := ""
				if r.Existed != nil && !*r.Existed {
					note = "  (was absent)"
				}
				return p.written(ctx, c, &f, key, writeResult{version: r.Version, receipt: r.Receipt, servedBy: r.ServedBy, base: r.Base, note: note})
			})
		},
	}
	f.add(p, cmd)
	return cmd
}

func (p *program) scanCommand() *cobra.Command {
	var f dataFlags
	var prefix, start, end string
	var limit uint32
	var keysOnly bool
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "list keys and values in key order",
		Long: `Prints KEY, a tab and VALUE a line. What a terminal would not show as it is
stands in quotes. A scan that cannot reach all partitions fails; what it
printed until then is true, but not all. Linearizable and bounded scans are one
point in time inside each partition, not across them; eventual ones (--ap) are none.`,
		Example: `  capstan scan --prefix cart:
  capstan scan --ap --prefix '{cart:42}'  # one tag, one partition
  capstan scan --start a --end b --limit 100
  capstan scan --keys-only -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			level, err := f.level(cmd)
			if err != nil {
				return err
			}
			session, err := f.sessionFlags.option()
			if err != nil {
				return err
			}
			opts := []client.ScanOption{f.readOption(level), session, client.Prefix([]byte(prefix)), client.Range([]byte(start), []byte(end)), client.Limit(limit)}
			if keysOnly {
				opts = append(opts, client.KeysOnly())
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return p.printScan(ctx, c, &f, keysOnly, opts)
			})
		},
	}
	f.add(p, cmd, false)
	flags := cmd.Flags()
	flags.StringVar(&prefix, "prefix", "", "keys that begin so")
	flags.StringVar(&start, "start", "", "the first key, inclusive")
	flags.StringVar(&end, "end", "", "the last key, exclusive")
	flags.Uint32Var(&limit, "limit", 0, "at most so many keys (0: all)")
	flags.BoolVar(&keysOnly, "keys-only", false, "leave the values out")
	cmd.MarkFlagsMutuallyExclusive("prefix", "start")
	cmd.MarkFlagsMutuallyExclusive("prefix", "end")
	return cmd
}

func (p *program) printScan(ctx context.Context, c *client.Client, f *dataFlags, keysOnly bool, opts []client.ScanOption) error {
	for m, err := range c.ScanMessages(ctx, opts...) {
		if err != nil {
			return f.keepFailed(err)
		}
		if p.json {
			if err := p.printJSON(m); err != nil {
				return err
			}
		} else {
			var lines []byte
			for _, e := range m.GetEntries() {
				lines = append(lines, visible(e.GetKey())...)
				if !keysOnly {
					lines = append(append(lines, '\t'), visible(e.GetValue())...)
				}
				lines = append(lines, '\n')
			}
			if err := p.write(lines); err != nil {
				return err
			}
		}
		end := m.GetEnd()
		if end == nil {
			continue
		}
		if err := f.keep(end.GetSession()); err != nil {
			return err
		}
		if !p.json && end.GetMore() {
			p.note("there is more: --limit was reached")
		}
		if f.verbose {
			p.note("%s", freshness(client.FreshnessOf(end.GetFreshness()), client.Version{}))
		}
	}
	return nil
}
