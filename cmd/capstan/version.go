package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker at a release.
var version string

// protocol is the public API's version.
const protocol = "capstan.v1"

// faults describes a build with planted faults: the tag capstan_faults.
type faults struct {
	Plantable []string // names for CAPSTAN_FAULT
}

func (p *program) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Example: `  capstan version`,
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "text":
				return p.printf("%s\n", versionText())
			case "json":
				v, revision := buildVersion()
				out := struct {
					Version   string   `json:"version"`
					Revision  string   `json:"revision"`
					Go        string   `json:"go"`
					Protocol  string   `json:"protocol"`
					Faults    bool     `json:"faults,omitempty"`
					Plantable []string `json:"plantable,omitempty"`
				}{Version: v, Revision: revision, Go: runtime.Version(), Protocol: protocol}
				if faultBuild != nil {
					out.Faults, out.Plantable = true, faultBuild.Plantable
				}
				line, err := json.Marshal(out)
				if err != nil {
					return err
				}
				return p.write(append(line, '\n'))
			}
			return usageErrorf("--output is text or json, not %q", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// versionText is what capstan version prints.
func versionText() string {
	v, revision := buildVersion()
	if revision != "" {
		revision = "  revision " + revision
	}
	loud := ""
	if faultBuild != nil {
		loud = "  WITH PLANTED FAULTS: for tests only, never keep data with it"
	}
	return fmt.Sprintf("capstan %s%s  %s  %s/%s  protocol %s%s", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH, protocol, loud)
}

// buildVersion is the release, or what the build knows of the source.
func buildVersion() (v, revision string) {
	v = version
	info, ok := debug.ReadBuildInfo()
	if !ok {
		if v == "" {
			v = "(devel)"
		}
		return v, ""
	}
	if v == "" {
		v = info.Main.Version
	}
	if v == "" {
		v = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value[:min(12, len(s.Value))]
		}
	}
	return v, revision
}
