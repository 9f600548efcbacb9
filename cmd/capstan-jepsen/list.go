package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/jepsen/nemesis"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// listed is one thing that a test can be made of.
type listed struct {
	Name  string   `json:"name"`
	What  string   `json:"what"`
	Needs string   `json:"needs,omitempty"`
	Kinds []string `json:"kinds,omitempty"`
}

// lists are all of them.
type lists struct {
	Workloads []listed `json:"workloads"`
	Nemeses   []listed `json:"nemeses"`
	Groups    []listed `json:"groups"`
}

func allLists() lists {
	var l lists
	for _, w := range workload.All() {
		l.Workloads = append(l.Workloads, listed{Name: w.Name, What: w.What})
	}
	for _, k := range nemesis.Kinds() {
		l.Nemeses = append(l.Nemeses, listed{Name: k.Name, What: k.What, Needs: k.Needs()})
	}
	for _, g := range nemesis.Groups() {
		l.Groups = append(l.Groups, listed{Name: g.Name, What: g.What, Kinds: g.Kinds})
	}
	return l
}

func (p *program) listCommand() *cobra.Command {
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list workloads and nemeses, one line each",
		Long: `Lists what a test can be made of: workloads, which are what clients do, and
nemeses, which are what is done to the cluster meanwhile. Several of each are
named with commas between them.`,
		Example: `  capstan-jepsen list
  capstan-jepsen list -o json`,
		Args: arguments(),
		RunE: func(*cobra.Command, []string) error {
			asJSON, err := output.json()
			if err != nil {
				return err
			}
			if asJSON {
				return p.printObject(allLists())
			}
			return p.write(allLists().text())
		},
	}
	output.add(cmd)
	return cmd
}

func (l lists) text() string {
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	section := func(title string, of []listed) {
		fmt.Fprintf(table, "%s\n", title)
		for _, x := range of {
			what := x.What
			if x.Needs != "" {
				what += " (needs " + x.Needs + ")"
			}
			if len(x.Kinds) > 0 && len(x.Kinds) < 8 {
				what += ": " + strings.Join(x.Kinds, ", ")
			}
			fmt.Fprintf(table, "  %s\t%s\n", x.Name, what)
		}
	}
	section("Workloads, for --workload, or all:", l.Workloads)
	section("\nNemeses, for --nemesis:", l.Nemeses)
	section("\nGroups of nemeses, for --nemesis too:", l.Groups)
	_ = table.Flush() // a builder takes all
	b.WriteString("\nA fault build of capstan, for --binary, is bin/capstan-faults of make build-faults.\n")
	return b.String()
}
