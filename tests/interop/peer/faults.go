package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"time"

	"storj.io/drpc/drpcerr"
)

// Faults are the rules that make the peer misbehave.  The first rule that matches and is
// not used up decides.
type Faults struct {
	Upgrade []*UpgradeFault `json:"upgrade"`
	RPC     []*RPCFault     `json:"rpc"`
}

// Quota says to how many of the matching events a rule applies.
type Quota struct {
	Skip  int `json:"skip"`  // let this many through first
	Times int `json:"times"` // then apply this often; 0: for ever
	Used  int `json:"used"`
	seen  int
}

func (q *Quota) exhausted() bool { return q.Times > 0 && q.Used >= q.Times }

// take counts one matching event and says whether the rule applies to it.
func (q *Quota) take() bool {
	q.seen++
	if q.seen <= q.Skip {
		return false
	}
	q.Used++
	return true
}

// UpgradeFault answers a request for the endpoint with something else than 101.
type UpgradeFault struct {
	Quota
	Status      int               `json:"status"`
	Body        json.RawMessage   `json:"body"`
	Text        string            `json:"text"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"`
	DelayMS     int               `json:"delay_ms"`
	Action      string            `json:"action"` // "" answers; hang, reset, delay
}

// RPCFault disturbs a call.
type RPCFault struct {
	Quota
	RPC     string         `json:"rpc"`    // glob over the method name without its service
	Match   map[string]any `json:"match"`  // request fields that must be equal
	When    string         `json:"when"`   // "before" the handler (default) or "after" it
	Action  string         `json:"action"` // error, stall, fin, empty, drop; "" only delays
	Text    string         `json:"text"`
	Code    uint64         `json:"code"`
	DelayMS int            `json:"delay_ms"`
}

var rpcActions = map[string]bool{
	"": true, "error": true, "stall": true, "fin": true, "empty": true, "drop": true,
}

var upgradeActions = map[string]bool{"": true, "hang": true, "reset": true, "delay": true}

func (f Faults) validate() error {
	for _, rule := range f.RPC {
		if _, err := path.Match(rule.RPC, ""); err != nil || rule.RPC == "" {
			return errors.New("rpc must be the name of a method, or a pattern such as Record*")
		}
		if !rpcActions[rule.Action] {
			return errors.New("unknown action " + rule.Action)
		}
		if rule.When != "" && rule.When != "before" && rule.When != "after" {
			return errors.New("when must be before or after")
		}
	}
	for _, rule := range f.Upgrade {
		if rule.Action == "" && rule.Status == 0 {
			return errors.New("an upgrade fault needs a status or an action")
		}
		if !upgradeActions[rule.Action] {
			return errors.New("unknown action " + rule.Action)
		}
	}
	return nil
}

func (f *RPCFault) err() error {
	return drpcerr.WithCode(errors.New(f.Text), f.Code)
}

func (f *RPCFault) delay() time.Duration {
	return time.Duration(f.DelayMS) * time.Millisecond
}

func (f *RPCFault) matches(method string, request map[string]any) bool {
	if ok, _ := path.Match(f.RPC, method); !ok {
		return false
	}
	for field, want := range f.Match {
		// As JSON: a test writes 5, which arrives here as a float.
		wanted, _ := json.Marshal(want)
		have, _ := json.Marshal(request[field])
		if !bytes.Equal(wanted, have) {
			return false
		}
	}
	return true
}

// rpcFault finds the rule for this call, if any.
func (p *Peer) rpcFault(method string, request map[string]any) *RPCFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rule := range p.faults.RPC {
		if !rule.exhausted() && rule.matches(method, request) && rule.take() {
			return rule
		}
	}
	return nil
}

func (p *Peer) upgradeFault() *UpgradeFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rule := range p.faults.Upgrade {
		if !rule.exhausted() && rule.take() {
			return rule
		}
	}
	return nil
}

// release lets everything that is stalled or hanging go on.
func (p *Peer) release() {
	p.update(func() {
		close(p.released)
		p.released = make(chan struct{})
	})
}

func (p *Peer) releasedChannel() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.released
}
