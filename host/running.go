package host

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/postern-sdp/postern/host/protect"
)

// Running is an agent that serves: its table stands and its sockets are open.
// [Config.Ready] gets it. Its methods may be called from any goroutine; when the
// agent has ended they return errors.
type Running struct {
	agent *agent

	mu       sync.Mutex // one reload at a time
	settings Settings   // in force
}

// Alive asks the goroutine that owns the sessions for a sign of life. It returns
// an error when there is none before ctx ends.
func (r *Running) Alive(ctx context.Context) error { return r.agent.sessions.alive(ctx) }

// Status returns what `postern-host status` shows.
func (r *Running) Status() (Status, error) { return r.agent.status() }

// NoteMetrics has Status tell why the metrics are not served; nil: they are.
func (r *Running) NoteMetrics(fault error) {
	text := ""
	if fault != nil {
		text = fault.Error()
	}
	r.agent.metricsFault.Store(&text)
}

// Summary returns one line for people: the link, and how much is open.
func (r *Running) Summary() string {
	link, sessions := r.agent.link.current(), r.agent.sessions
	sessions.mu.Lock()
	live := len(sessions.live)
	sessions.mu.Unlock()
	state := "connected to the controller"
	if !link.Connected {
		state = "not connected to the controller"
		if link.Error != "" {
			state += ": " + link.Error
		}
	}
	return fmt.Sprintf("%d sessions, %s", live, state)
}

// Reload takes over what of next can change while sessions live: the standing
// exceptions and the inside interfaces. It returns the keys of everything else that next says differently,
// which holds from the next start on. On an error all is as it was.
func (r *Running) Reload(ctx context.Context, next Settings) (waiting []string, err error) {
	if err := next.Validate(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting = Waiting(r.settings.Fixed(), next.Fixed())
	stopped := r.agent.sessions.do(func(owner context.Context) {
		err = r.agent.sessions.setRules(owner, next.RulesAt)
	})
	if err = errors.Join(stopped, err); err != nil {
		return nil, err
	}
	r.settings.Keep, r.settings.Firewall.Inside = next.Keep, next.Firewall.Inside
	return waiting, nil
}

// changeable reports whether a key holds at once, here or, as the log's level
// does, where the agent is run.
func changeable(key string) bool {
	return key == "keep" || key == "firewall.inside" || key == "log_level"
}

// Fixed returns what of the settings holds as long as an agent runs, by its keys. A
// list that is missing reads like one that is empty.
func (s Settings) Fixed() map[string]string {
	all := make(map[string]string)
	flatten(all, "", reflect.ValueOf(s))
	return all
}

func flatten(into map[string]string, prefix string, s reflect.Value) {
	for i := range s.NumField() {
		key, _, _ := strings.Cut(s.Type().Field(i).Tag.Get("toml"), ",")
		key = prefix + key
		field := s.Field(i)
		switch {
		case changeable(key):
		case field.Kind() == reflect.Struct:
			flatten(into, key+".", field)
		case field.Kind() == reflect.Slice:
			into[key] = fmt.Sprintf("%q", field.Interface())
		default:
			into[key] = fmt.Sprint(field.Interface())
		}
	}
}

// Waiting returns the keys in which next differs from what a running agent has, both
// as of [Settings.Fixed]: there next holds from the agent's next start on.
func Waiting(running, next map[string]string) []string {
	var keys []string
	for key, value := range next {
		if running[key] != value {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// alive passes a message through the owner, and the lock that everybody needs.
func (b *sessions) alive(ctx context.Context) error {
	done := make(chan struct{})
	beat := func(context.Context) {
		b.mu.Lock()
		defer b.mu.Unlock()
		close(done)
	}
	select {
	case b.orders <- beat:
	case <-b.stopped:
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// setRules makes configured the table's rules, whose pinholes stay.
func (b *sessions) setRules(ctx context.Context, configured ruling) error {
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	rules, ruled, judged, before := b.rules, b.ruled, b.judged, b.configured
	if err := b.judge(configured); err != nil {
		return err
	}
	err := b.reinstallRules(ctx)
	if err != nil {
		b.rules, b.ruled, b.judged, b.configured = rules, ruled, judged, before
		b.read = protect.Record{} // the next decision reads them again
	}
	return err
}
