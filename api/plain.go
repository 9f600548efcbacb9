package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// Headers of the plain door.
const (
	headerVersion   = "Capstan-Version"
	headerServedBy  = "Capstan-Served-By"
	headerTentative = "Capstan-Tentative"
	headerStaleness = "Capstan-Staleness"
	headerSession   = "Capstan-Session"
	headerReceipt   = "Capstan-Receipt"
	headerOutcome   = "Capstan-Outcome"
)

// plainDoor serves keys to curl: /kv/{key}, bodies raw bytes.
//
// It takes any content type, since curl calls every body a form, but refuses
// multipart bodies and encoded ones: those are not the value's bytes. Range
// and, on reads, conditional headers are ignored: nothing here is cached.
type plainDoor struct{ ops *operations }

func (d *plainDoor) serve(w *guard, r *http.Request) {
	call := &plainCall{w: w, r: r, ops: d.ops, level: levelNone, code: codeOK}
	call.serve()
	if o := d.ops.config.Observer; o != nil {
		o.Observe(call.label(), call.level, call.code, time.Since(w.start))
	}
}

// plainCall is one request to the plain door.
type plainCall struct {
	w           *guard
	r           *http.Request
	ops         *operations
	key         []byte
	options     options
	session     string
	level, code string // labels for the observer
}

func (c *plainCall) label() string {
	switch c.r.Method {
	case http.MethodGet:
		return "http.Get"
	case http.MethodHead:
		return "http.Head"
	case http.MethodPut:
		return "http.Put"
	case http.MethodDelete:
		return "http.Delete"
	}
	return "other"
}

func (c *plainCall) serve() {
	write := c.r.Method == http.MethodPut || c.r.Method == http.MethodDelete
	defer func() {
		if v := recover(); v != nil {
			if isAbort(v) {
				panic(v)
			}
			c.fail(panicked(c.ops.config, c.label(), v), write)
		}
	}()
	if !allow(c.w, c.r, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete) {
		c.code = "unimplemented"
		return
	}
	if err := c.parse(); err != nil {
		c.fail(err, false)
		return
	}
	c.level = levelLabel(c.options.level)
	ctx := c.r.Context()
	timeout := DefaultTimeout
	if c.options.timeout > 0 {
		timeout = min(c.options.timeout, MaxTimeout)
	}
	c.w.lasts(time.Now().Add(timeout))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var err error
	switch c.r.Method {
	case http.MethodPut:
		err = c.put(ctx)
	case http.MethodDelete:
		err = c.delete(ctx)
	default:
		err = c.get(ctx)
	}
	if err != nil {
		c.fail(err, write)
	}
}

// parse reads all but the body.
func (c *plainCall) parse() (err error) {
	if c.key, err = keyOf(c.r.URL.EscapedPath()); err != nil {
		return err
	}
	if c.options, err = parseOptions(c.r.Method, c.r.URL.RawQuery); err != nil {
		return err
	}
	if c.options.timeout > MaxTimeout {
		return badOption("timeout of %s is over %s", c.options.timeout, MaxTimeout)
	}
	sessions := c.r.Header.Values(headerSession)
	if len(sessions) > 1 {
		return refuse(replication.BadToken, headerSession+" given twice; try: the token that was answered last")
	}
	if len(sessions) == 1 {
		c.session = sessions[0]
	}
	return nil
}

func (c *plainCall) get(ctx context.Context) error {
	got, err := c.ops.get(WithAdmit(ctx, c.w.claimAnswer), &capstanv1.GetRequest{
		Key: c.key, Consistency: c.options.level, MaxStaleness: c.options.maxStaleness,
		Replicas: c.options.replicas, Session: c.session,
	})
	if err != nil {
		return err
	}
	if err := c.w.claimAnswer(len(got.GetValue())); err != nil {
		return err
	}
	h := c.w.Header()
	if f := got.GetFreshness(); f != nil {
		setIfAny(h, headerServedBy, f.GetServedBy())
		h.Set(headerTentative, strconv.FormatBool(f.GetTentative()))
		if f.GetStaleness() != nil {
			h.Set(headerStaleness, f.GetStaleness().AsDuration().String())
		}
	}
	setIfAny(h, headerSession, got.GetSession())
	if !got.GetFound() {
		return notFound("key not found")
	}
	setVersion(h, got.GetVersion())
	h.Set("Content-Type", "application/octet-stream")
	c.answer(http.StatusOK, got.GetValue())
	return nil
}

func (c *plainCall) put(ctx context.Context) error {
	condition, err := preconditions(c.r.Header)
	if err != nil {
		return err
	}
	value, err := c.body()
	if err != nil {
		return failureOf(err, false, nil) // nothing was handed to a backend
	}
	put, err := c.ops.put(ctx, &capstanv1.PutRequest{
		Key: c.key, Value: value, Consistency: c.options.level, Acks: c.options.acks,
		Condition: condition, Session: c.session,
	})
	if err != nil {
		return err
	}
	c.written(put.GetVersion(), put.GetServedBy(), put.GetSession(), put.GetReceipt())
	return nil
}

func (c *plainCall) delete(ctx context.Context) error {
	condition, err := preconditions(c.r.Header)
	if err != nil {
		return err
	}
	deleted, err := c.ops.delete(ctx, &capstanv1.DeleteRequest{
		Key: c.key, Consistency: c.options.level, Acks: c.options.acks,
		Condition: condition, Session: c.session,
	})
	if err != nil {
		return err
	}
	c.written(deleted.GetVersion(), deleted.GetServedBy(), deleted.GetSession(), deleted.GetReceipt())
	return nil
}

func (c *plainCall) written(version *capstanv1.Version, servedBy, session, receipt string) {
	h := c.w.Header()
	setVersion(h, version)
	setIfAny(h, headerServedBy, servedBy)
	setIfAny(h, headerSession, session)
	setIfAny(h, headerReceipt, receipt)
	status := http.StatusOK
	if c.options.level == eventual {
		status = http.StatusAccepted
		h.Set(headerTentative, "true")
	}
	c.answer(status, nil)
}

// trustedLength bounds the memory taken on the word of a Content-Length alone,
// in bytes; a body that does come gets more.
const trustedLength = 64 << 10

// body reads a value. A body that breaks off is an error, never a short value.
func (c *plainCall) body() ([]byte, error) {
	h := c.r.Header
	if encoding := strings.Join(h.Values("Content-Encoding"), ","); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, unsupported("content-encoding %.40q; try: the value as it is", encoding)
	}
	if media, _, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil && strings.HasPrefix(media, "multipart/") {
		return nil, unsupported("content type %.40q; try: curl -T file, or --data-binary", media)
	}
	most := c.ops.config.MaxValueSize
	if c.r.ContentLength > int64(most) {
		return nil, validateValueSize(int(min(c.r.ContentLength, 1<<31-1)), most)
	}
	if c.r.ProtoMajor == 1 && c.r.ContentLength == 0 && h.Get("Content-Length") == "" {
		return nil, badOption("put without a body; try: Content-Length: 0 for an empty value")
	}
	size := min(c.r.ContentLength, trustedLength)
	if size < 0 {
		size = 512 // bytes; not known, a first guess
	}
	value, err := readAtMost(c.r.Body, int(size), most)
	if err != nil {
		var refused *failure
		if errors.As(err, &refused) {
			return nil, refused
		}
		return nil, badOption("body broke off after %d bytes, nothing was written; try: again", len(value))
	}
	return value, nil
}

// readAtMost reads r to its end, which has to come within most bytes.
func readAtMost(r io.Reader, guess, most int) ([]byte, error) {
	value := make([]byte, 0, guess+1) // one more: the end is seen without growing
	for {
		n, err := r.Read(value[len(value):cap(value)])
		value = value[:len(value)+n]
		if len(value) > most {
			return value, refuse(replication.ValueTooLarge, "value is over "+strconv.Itoa(most)+" bytes; try: several keys, or a higher --max-value-size")
		}
		if err == io.EOF {
			return value, nil
		}
		if err != nil {
			return value, err
		}
		if len(value) == cap(value) {
			value = append(value, 0)[:len(value)]
		}
	}
}

func unsupported(format string, args ...any) error {
	var f *failure
	errors.As(badOption(format, args...), &f)
	f.status = http.StatusUnsupportedMediaType
	return f
}

func (c *plainCall) answer(status int, body []byte) {
	h := c.w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(body) // the client is gone
	}
}

func (c *plainCall) fail(err error, write bool) {
	f := failureOf(err, write, c.ops.config.APIAddress)
	c.code = f.code.String()
	if f.info.GetCurrent() != nil {
		setVersion(c.w.Header(), f.info.GetCurrent())
	}
	setIfAny(c.w.Header(), headerReceipt, f.info.GetReceipt())
	setIfAny(c.w.Header(), headerSession, f.info.GetSession())
	writeFailure(c.w, f)
}

// setVersion tells a version; a committed one is the strong validator too.
func setVersion(h http.Header, v *capstanv1.Version) {
	if v == nil {
		return
	}
	text := versionText(v)
	h.Set(headerVersion, text)
	if v.GetIndex() != 0 {
		h.Set("ETag", `"`+text+`"`)
	}
}

func setIfAny(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}
