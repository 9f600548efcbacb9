//go:build linux

package lab_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

func TestCutIsOneWay(t *testing.T) {
	w := newWorld(t, lab.OpenNamespaces, "n1", "n2", "n3")
	w.shape("n1", "n2", lab.Rule{Cut: true})
	w.send("n1", "n2", 50)
	w.until("50 datagrams are cut", func() error {
		if got := w.traffic("n1", "n2").Cut; got != 50 {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
	w.send("n2", "n1", 50)
	w.arrived("n1", 50)
	w.send("n1", "n3", 50)
	w.arrived("n3", 50)
	if got := w.received("n2"); len(got) != 0 {
		t.Errorf("%d datagrams crossed the cut", len(got))
	}
	// The link works again at once, also for a connection that began in the cut.
	asked := make(chan error)
	go func() {
		_, err := w.ask("n1", "/ask?ip=%s", w.ip["n2"])
		asked <- err
	}()
	w.until("a connection is cut", func() error {
		if w.traffic("n1", "n2").Cut == 50 {
			return fmt.Errorf("not begun")
		}
		return nil
	})
	w.shape("n1", "n2", lab.Rule{})
	if err := <-asked; err != nil {
		t.Error(err)
	}
	w.send("n1", "n2", 50)
	w.arrived("n2", 50)
}

// arrived waits until so many datagrams have.
func (w *world) arrived(host string, count int) []int {
	w.t.Helper()
	var numbers []int
	w.until(fmt.Sprintf("%d datagrams arrived at %s", count, host), func() error {
		if numbers = w.received(host); len(numbers) != count {
			return fmt.Errorf("%d", len(numbers))
		}
		return nil
	})
	return numbers
}

func TestClientsCanBeCutOff(t *testing.T) {
	w := newWorld(t, lab.OpenNamespaces, "n1", "n2")
	w.shape("n1", lab.Clients, lab.Rule{Cut: true})
	asked := make(chan error)
	go func() {
		_, err := w.ask("n1", "/hello")
		asked <- err
	}()
	w.until("an answer is cut", func() error {
		if w.traffic("n1", lab.Clients).Cut == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	w.mustAsk("n2", "/ask?ip=%s", w.ip["n1"])
	select {
	case err := <-asked:
		t.Errorf("answered across a cut: %v", err)
	default:
	}
	w.shape("n1", lab.Clients, lab.Rule{})
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

func TestDelay(t *testing.T) {
	w := newWorld(t, lab.OpenNamespaces, "n1", "n2")
	const delay = 30 * time.Millisecond
	w.shape("n1", "n2", lab.Rule{Delay: delay})
	w.shape("n2", "n1", lab.Rule{Delay: delay})
	began := time.Now()
	w.mustAsk("n1", "/ask?ip=%s&bytes=200000", w.ip["n2"])
	// A round to open the connection, one for the question.
	if took := time.Since(began); took < 4*delay {
		t.Errorf("took %s over links of %s", took, delay)
	}
	w.shape("n1", "n2", lab.Rule{Jitter: 50 * time.Millisecond})
	w.send("n1", "n2", 200)
	if slices.IsSorted(w.arrived("n2", 200)) {
		t.Error("200 datagrams with a jitter of 50 ms kept their order")
	}
}

func TestLossAndDuplicates(t *testing.T) {
	w := newWorld(t, lab.OpenNamespaces, "n1", "n2")
	w.shape("n1", "n2", lab.Rule{Loss: 0.3, Duplicate: 0.3})
	const sent = 150
	w.send("n1", "n2", sent)
	var seen lab.Traffic
	w.until("all are through", func() error {
		if seen = w.traffic("n1", "n2"); seen.Sent != sent {
			return fmt.Errorf("%d", seen.Sent)
		}
		return nil
	})
	if seen.Lost < sent/10 || seen.Lost > sent/2 || seen.Duplicated < sent/20 || seen.Duplicated > sent/2 || seen.Delivered+seen.Lost != sent+seen.Duplicated {
		t.Errorf("%+v", seen)
	}
	numbers := w.arrived("n2", int(seen.Delivered))
	slices.Sort(numbers)
	if got := sent - len(slices.Compact(numbers)); got != int(seen.Lost) {
		t.Errorf("%d are missing, %d were lost", got, seen.Lost)
	}
	// TCP gets through all the same.
	w.shape("n1", "n2", lab.Rule{Loss: 0.1, Duplicate: 0.3})
	w.mustAsk("n1", "/ask?ip=%s&bytes=20000", w.ip["n2"])
}

func TestRate(t *testing.T) {
	w := newWorld(t, lab.OpenNamespaces, "n1", "n2")
	const rate, size = 4 << 20, 1 << 20
	w.shape("n1", "n2", lab.Rule{Rate: rate})
	began := time.Now()
	w.mustAsk("n1", "/ask?ip=%s&bytes=%d", w.ip["n2"], size)
	if took, least := time.Since(began), time.Second*size/rate; took < least {
		t.Errorf("%d bytes took %s; at %d bytes a second they take %s", size, took, rate, least)
	}
}
