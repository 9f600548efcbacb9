package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// keyPrefix is where the plain door's keys begin.
const keyPrefix = "/kv/"

// percentDecode undoes percent-encoding once, byte for byte: nothing else is
// special in it, not the plus sign, slashes, dots or NUL.
func percentDecode(s string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return nil, fmt.Errorf("percent sign at byte %d without two hex digits", i)
		}
		b, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return nil, fmt.Errorf("percent sign at byte %d without two hex digits", i)
		}
		out = append(out, byte(b))
		i += 2
	}
	return out, nil
}

// keyOf is the key that an escaped path names.
func keyOf(escapedPath string) ([]byte, error) {
	rest, ok := strings.CutPrefix(escapedPath, keyPrefix)
	if !ok {
		return nil, notFound("no key in the path; try: /kv/{key}")
	}
	key, err := percentDecode(rest)
	if err != nil {
		return nil, refuse(replication.BadKey, "key is badly escaped: "+err.Error()+"; try: %25 for a percent sign")
	}
	return key, validateKey(key)
}

// parseQuery reads a query that may hold each of the allowed parameters once.
func parseQuery(raw string, allowed ...string) (map[string]string, error) {
	query := map[string]string{}
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		decodedName, err1 := percentDecode(strings.ReplaceAll(name, "+", " "))
		decodedValue, err2 := percentDecode(strings.ReplaceAll(value, "+", " "))
		if err := first(err1, err2); err != nil {
			return nil, badOption("query is badly escaped: %v", err)
		}
		name, value = string(decodedName), string(decodedValue)
		if !slices.Contains(allowed, name) {
			return nil, badOption("unknown query parameter %.40q here; try: %s", name, strings.Join(allowed, ", "))
		}
		if _, twice := query[name]; twice {
			return nil, badOption("query parameter %q given twice", name)
		}
		query[name] = value
	}
	return query, nil
}

// options are the plain door's query parameters.
type options struct {
	level        capstanv1.Consistency
	maxStaleness *durationpb.Duration
	acks         uint32
	replicas     uint32
	timeout      time.Duration // 0: none given
}

func parseOptions(method, raw string) (options, error) {
	allowed := []string{"consistency", "max_staleness", "replicas", "timeout"}
	if method == http.MethodPut || method == http.MethodDelete {
		allowed = []string{"consistency", "acks", "timeout"}
	}
	query, err := parseQuery(raw, allowed...)
	if err != nil {
		return options{}, err
	}
	var o options
	for name, text := range query {
		var err error
		switch name {
		case "consistency":
			o.level, err = parseLevel(text)
		case "acks":
			o.acks, err = parseCount(name, text)
		case "replicas":
			o.replicas, err = parseCount(name, text)
		case "max_staleness":
			var d time.Duration
			d, err = parseDuration(name, text)
			o.maxStaleness = durationpb.New(d)
		case "timeout":
			o.timeout, err = parseDuration(name, text)
			if err == nil && o.timeout <= 0 {
				err = badOption("timeout of %s is not above 0; try: 5s", o.timeout)
			}
		}
		if err != nil {
			return options{}, err
		}
	}
	return o, nil
}

func parseLevel(text string) (capstanv1.Consistency, error) {
	switch text {
	case "linearizable":
		return linearizable, nil
	case "bounded":
		return bounded, nil
	case "eventual":
		return eventual, nil
	}
	return 0, badOption("unknown consistency %.40q; try: linearizable, bounded or eventual", text)
}

func parseCount(name, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, badOption("%s %.40q is no count", name, text)
	}
	return uint32(n), nil
}

func parseDuration(name, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, badOption("%s %.40q is no duration; try: 500ms or 5s", name, text)
	}
	return d, nil
}

// preconditions turns If-Match and If-None-Match of a write into a condition.
// An If-Match that no committed version can meet has failed already: weak tags
// and tags that are no version never match.
func preconditions(h http.Header) (*capstanv1.Condition, error) {
	match, noneMatch := h.Values("If-Match"), h.Values("If-None-Match")
	switch {
	case len(match) > 0 && len(noneMatch) > 0:
		return nil, badOption("if-match together with if-none-match; try: one of them")
	case len(noneMatch) > 0:
		_, every, err := parseETags(strings.Join(noneMatch, ","))
		if err != nil {
			return nil, badOption("if-none-match: %v", err)
		}
		if !every {
			return nil, badOption("if-none-match with a version is not offered; try: if-none-match: *")
		}
		return &capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}}, nil
	case len(match) > 0:
		tags, every, err := parseETags(strings.Join(match, ","))
		if err != nil {
			return nil, badOption("if-match: %v", err)
		}
		if every {
			return &capstanv1.Condition{Test: &capstanv1.Condition_Present{Present: true}}, nil
		}
		return matchOne(tags)
	}
	return nil, nil
}

func matchOne(tags []etag) (*capstanv1.Condition, error) {
	var found *storage.Version
	for _, tag := range tags {
		if _, changed := tag.original(); changed || tag.weak || !isCommitted(tag.text) {
			continue
		}
		v, _ := storage.ParseVersion(tag.text)
		if found != nil && *found != v {
			return nil, badOption("if-match with several versions is not offered; try: the one that was read last")
		}
		found = &v
	}
	if found == nil {
		for _, tag := range tags {
			if version, changed := tag.original(); changed {
				return nil, badOption("if-match: %v is the ETag %q changed on its way, as proxies do that compress answers; "+
					"try: have the proxy leave /kv/ alone, or send the Capstan-Version header's value in quotes", tag, `"`+version+`"`)
			}
		}
		return nil, refuse(replication.ConditionFailed, `if-match names no committed version; try: the ETag that the key was answered with, quotes included`)
	}
	return &capstanv1.Condition{Test: &capstanv1.Condition_Version{Version: protoVersion(found)}}, nil
}

// etag is an entity tag without its quotes.
type etag struct {
	text string
	weak bool
}

func (e etag) String() string {
	if e.weak {
		return `W/"` + e.text + `"`
	}
	return `"` + e.text + `"`
}

// compressedSuffixes are what proxies append to the ETag of an answer that they compress.
var compressedSuffixes = []string{"-gzip", "-br", "-zstd", "-deflate", ";gzip", ";br", ";zstd", ";deflate", "+gzip"}

// original is the version in a tag that a proxy has changed: made weak, or given a suffix.
// Such a tag never matches, so a client that sends it again and again would never get on.
func (e etag) original() (version string, changed bool) {
	for _, suffix := range compressedSuffixes {
		// A node id ends in a dash and four characters, and so may look like a suffix. What
		// stands before a suffix still ends like an id.
		if text, cut := strings.CutSuffix(e.text, suffix); cut && isCommitted(text) && endsLikeNodeID(text) {
			return text, true
		}
	}
	return e.text, e.weak && isCommitted(e.text)
}

// isCommitted reports whether text is the text form of a committed version.
func isCommitted(text string) bool {
	v, err := storage.ParseVersion(text)
	return err == nil && v.Index != 0 && v.String() == text
}

func endsLikeNodeID(version string) bool {
	return len(version) > 5 && version[len(version)-5] == '-' && strings.Count(version, "-") >= 3
}

// maxETags bounds a list of tags; more than one is rare.
const maxETags = 16

// parseETags reads the value of If-Match or If-None-Match (RFC 9110, 13.1.1):
// every is "*", which stands alone.
func parseETags(list string) (tags []etag, every bool, err error) {
	const space = " \t"
	rest := strings.Trim(list, space)
	if rest == "*" {
		return nil, true, nil
	}
	for rest != "" {
		if rest[0] == ',' { // empty elements are allowed
			rest = strings.TrimLeft(rest[1:], space)
			continue
		}
		var tag etag
		opaque, weak := strings.CutPrefix(rest, "W/")
		tag.weak = weak
		opaque, quoted := strings.CutPrefix(opaque, `"`)
		text, after, closed := strings.Cut(opaque, `"`)
		if !quoted || !closed || !isETagText(text) {
			return nil, false, fmt.Errorf("%.80q is no entity tag; try: a version in double quotes, or *", rest)
		}
		tag.text = text
		rest = strings.TrimLeft(after, space)
		if rest != "" && rest[0] != ',' {
			return nil, false, fmt.Errorf("%.80q follows an entity tag without a comma", rest)
		}
		if len(tags) == maxETags {
			return nil, false, fmt.Errorf("more than %d entity tags", maxETags)
		}
		tags = append(tags, tag)
	}
	if len(tags) == 0 {
		return nil, false, errors.New("no entity tag; try: a version in double quotes, or *")
	}
	return tags, false, nil
}

func isETagText(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
