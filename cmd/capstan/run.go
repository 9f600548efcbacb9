package main

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// program is one run of the binary.
type program struct {
	open           opener
	stdin          io.Reader
	stdout, stderr io.Writer
	json           bool // errors are printed as JSON too
	waiting        *waiting
	asked          []string // endpoints
	sinks          []*sink  // of neverWait
}

// run is the whole program: it returns the exit status.
func run(ctx context.Context, open opener, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{open: open, stdin: stdin, stdout: stdout, stderr: stderr}
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	defer p.flush()
	cmd, err := root.ExecuteContextC(ctx)
	return p.finish(cmd, err)
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "capstan",
		Short: "a replicated key-value store where every request picks its consistency",
		Long: `Capstan is a replicated key-value store. Every request says where it stands:
linearizable (correct, or an error), bounded (a read that is at most so old) or
eventual (answered by whatever can be reached), on the same keys, at the same
time.

Exit status: 0 done; 1 no (not found, condition failed, superseded, expired,
lost); 2 usage or invalid argument; 3 failed, not applied; 4 outcome unknown or still
pending; 5 (serve) the cluster refuses the data directory for good.`,
		Example: `  capstan demo                     # three nodes on this machine
  capstan put cart:42 apple
  capstan get cart:42
  capstan status`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagError)
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(helpCommand())
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddGroup(
		&cobra.Group{ID: "data", Title: "Data:"},
		&cobra.Group{ID: "cluster", Title: "Cluster:"},
		&cobra.Group{ID: "run", Title: "Running it:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("data", p.getCommand(), p.putCommand(), p.deleteCommand(), p.scanCommand(), p.awaitCommand(), p.conflictsCommand())
	add("cluster", p.statusCommand(), p.ringCommand(), p.verifyCommand(), p.explainCommand(), p.nodeCommand(), p.leaderCommand(), p.chaosCommand())
	add("run", p.demoCommand(), p.serveCommand(), p.benchCommand(), p.versionCommand())
	completeNoFiles(root)
	return root
}

// helpCommand is cobra's own, but an unknown topic is a usage error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageErrorf("no help for %q: there is no such command", strings.Join(args, " ")).hint("capstan --help")
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// fileFlags are the flags whose values name files or directories.
var fileFlags = []string{"file", "session-file", "config", "data-dir"}

// completeNoFiles keeps the shell from offering files where keys, values, nodes and numbers
// are wanted.
func completeNoFiles(c *cobra.Command) {
	if c.ValidArgsFunction == nil && len(c.ValidArgs) == 0 {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(fileFlags, f.Name) {
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions) // it has one already
		}
	})
	for _, child := range c.Commands() {
		completeNoFiles(child)
	}
}

// groupCommand is a command that only holds others.
func groupCommand(use, short, example string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageErrorf("capstan %s needs a command", use).hint("capstan " + use + " --help")
			}
			e := usageErrorf("unknown command %q for %q", args[0], cmd.CommandPath())
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				return e.hint(cmd.CommandPath() + " " + strings.Join(s, ", "))
			}
			return e.hint(cmd.CommandPath() + " --help")
		},
		Args: cobra.ArbitraryArgs,
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(children...)
	return c
}

// arguments wants exactly so many and says which.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		e := usageErrorf("%s takes %s, got %d argument%s", cmd.CommandPath(), wanted(names), len(args), plural(len(args)))
		return e.hint(cmd.CommandPath() + " --help")
	}
}

func wanted(names []string) string {
	if len(names) == 0 {
		return "no arguments"
	}
	return strings.Join(names, " ")
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// terminal reports whether w is one: only then is progress shown and a newline
// added to a raw value.
func terminal(w io.Writer) bool {
	if s, ok := w.(*sink); ok {
		w = s.to
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
