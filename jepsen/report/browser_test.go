//go:build linux

package report

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// requireVariable makes a missing browser a failure.
const requireVariable = "CAPSTAN_REQUIRE_CHROMIUM"

// browserPatience bounds the wait for one answer of the browser.
const browserPatience = 60 * time.Second

// browser is a headless Chromium that is spoken to over its DevTools pipe:
// https://chromedevtools.github.io/devtools-protocol. One page, one caller.
type browser struct {
	t       *testing.T
	to      io.Writer
	answers chan message
	next    int
	session string
	events  []message
}

type message struct {
	ID      int             `json:"id,omitempty"`
	Method  string          `json:"method,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// newBrowser starts Chromium, or skips where there is none and none is required.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			program = p
			break
		}
	}
	if program == "" {
		if os.Getenv(requireVariable) != "" {
			t.Fatalf("there is no Chromium, and %s is set", requireVariable)
		}
		t.Skip("NOT TESTED: there is no Chromium to look at the page with")
	}
	theirIn, toThem, err := os.Pipe()
	must(t, err)
	fromThem, theirOut, err := os.Pipe()
	must(t, err)
	dir, err := os.MkdirTemp("", "capstan-report-browser-")
	must(t, err)
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
		"--user-data-dir="+dir, "--remote-debugging-pipe", "about:blank")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4, as --remote-debugging-pipe has it
	must(t, cmd.Start())
	theirIn.Close()
	theirOut.Close()
	b := &browser{t: t, to: toThem, answers: make(chan message, 1024)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(b.answers)
		lines := bufio.NewReader(fromThem)
		for {
			text, err := lines.ReadBytes(0)
			if err != nil {
				return
			}
			var m message
			if json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m) == nil {
				b.answers <- m
			}
		}
	}()
	t.Cleanup(func() {
		toThem.Close() // the browser ends with its pipe
		go func() {
			for range b.answers {
			}
		}()
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		fromThem.Close()
		<-read
		// Its children may still write for a moment.
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if err := os.RemoveAll(dir); err == nil || time.Now().After(end) {
				break
			}
		}
		if t.Failed() {
			t.Logf("the browser said:\n%s", said.Bytes()[:min(said.Len(), 4000)])
		}
	})
	var target struct {
		ID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		Session string `json:"sessionId"`
	}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached)
	b.session = attached.Session
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// call is one command and its answer; events that come before are kept.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.next++
	text, err := json.Marshal(map[string]any{"id": b.next, "method": method, "params": params})
	if params == nil {
		text, err = json.Marshal(map[string]any{"id": b.next, "method": method})
	}
	must(b.t, err)
	if b.session != "" {
		text = append(text[:len(text)-1], fmt.Sprintf(`,"sessionId":%q}`, b.session)...)
	}
	_, err = b.to.Write(append(text, 0))
	must(b.t, err)
	m := b.wait(func(m message) bool { return m.ID == b.next })
	if m.Error != nil {
		b.t.Fatalf("%s: %s", method, m.Error.Message)
	}
	if result != nil {
		must(b.t, json.Unmarshal(m.Result, result))
	}
}

// wait reads on until what is wanted has come.
func (b *browser) wait(wanted func(message) bool) message {
	b.t.Helper()
	late := time.After(browserPatience)
	for {
		select {
		case m, ok := <-b.answers:
			if !ok {
				b.t.Fatal(errors.New("the browser ended"))
			}
			if m.Method != "" {
				b.events = append(b.events, m)
			}
			if wanted(m) {
				return m
			}
		case <-late:
			b.t.Fatalf("no answer of the browser within %v", browserPatience)
		}
	}
}

// open shows a page at a width, and returns when it has loaded.
func (b *browser) open(url string, wide int, dark bool) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": wide, "height": 800, "deviceScaleFactor": 1, "mobile": wide < 600}, nil)
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.events = nil
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	loaded := func(m message) bool { return m.Method == "Page.loadEventFired" }
	for _, m := range b.events {
		if loaded(m) {
			return
		}
	}
	b.wait(loaded)
}

// eval is the value of an expression in the page.
func (b *browser) eval(expression string, result any) {
	b.t.Helper()
	var answer struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		Exception *struct {
			Text string `json:"text"`
		} `json:"exceptionDetails"`
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &answer)
	if answer.Exception != nil {
		b.t.Fatalf("%s: %s", expression, answer.Exception.Text)
	}
	must(b.t, json.Unmarshal(answer.Result.Value, result))
}

// sees wants an expression to be true.
func (b *browser) sees(expression, or string) {
	b.t.Helper()
	var is bool
	if b.eval(expression, &is); !is {
		b.t.Error(or)
	}
}

// screenshot is the whole page, as PNG.
func (b *browser) screenshot() []byte {
	b.t.Helper()
	var shot struct {
		Data string `json:"data"`
	}
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	must(b.t, err)
	return png
}

// complaints are what the page did wrong since it was opened: errors on the
// console, exceptions, requests for anything but itself.
func (b *browser) complaints(url string) (all []string) {
	for _, m := range b.events {
		switch m.Method {
		case "Runtime.exceptionThrown":
			all = append(all, "exception: "+string(m.Params))
		case "Runtime.consoleAPICalled", "Log.entryAdded":
			all = append(all, "console: "+string(m.Params))
		case "Network.requestWillBeSent":
			var sent struct {
				Request struct {
					URL string `json:"url"`
				} `json:"request"`
			}
			if json.Unmarshal(m.Params, &sent) == nil && sent.Request.URL != url && !bytes.HasPrefix([]byte(sent.Request.URL), []byte("data:")) {
				all = append(all, "request: "+sent.Request.URL)
			}
		}
	}
	return all
}
