package main

import (
	"encoding/json"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker at a release.
var version string

// protocol is the public API's version.
const protocol = "capstan.v1"

func (p *program) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Example: `  capstan version`,
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			v, revision := buildVersion()
			switch output {
			case "text":
				if revision != "" {
					revision = "  revision " + revision
				}
				return p.printf("capstan %s%s  %s  %s/%s  protocol %s\n", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH, protocol)
			case "json":
				line, err := json.Marshal(struct {
					Version  string `json:"version"`
					Revision string `json:"revision"`
					Go       string `json:"go"`
					Protocol string `json:"protocol"`
				}{v, revision, runtime.Version(), protocol})
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
