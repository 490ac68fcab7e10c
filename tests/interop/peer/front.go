package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// Largest WebSocket message taken, in bytes: the default yamux window.
const readLimit = 256 << 10

const keyHeader = "X-Coder-AI-Governance-Gateway-Key"

type connKey struct{}

type problem struct {
	Message     string       `json:"message"`
	Detail      string       `json:"detail,omitempty"`
	Validations []validation `json:"validations,omitempty"`
}

type validation struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// serveEndpoint is the whole HTTP side of coderd that a gateway sees.  The checks come
// in coderd's order: licence, key, version, upgrade.
func (p *Peer) serveEndpoint(w http.ResponseWriter, r *http.Request) {
	config := p.snapshot()
	w.Header().Set("X-Coder-Build-Version", config.Server.BuildVersion)
	upgrade := &Upgrade{
		Path:         r.URL.Path,
		Version:      r.URL.Query().Get("version"),
		Key:          r.Header.Get(keyHeader),
		BuildVersion: r.Header.Get("X-Coder-Build-Version"),
		Headers:      r.Header.Clone(),
	}
	if fault := p.upgradeFault(); fault != nil && !p.misbehave(w, r, upgrade, fault) {
		return
	}
	if status, refusal := check(config, upgrade); refusal != nil {
		p.logUpgrade(upgrade, status)
		writeJSON(w, status, refusal)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		// Accept has sent its own status and text; coderd adds its JSON behind it.
		p.logUpgrade(upgrade, http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(problem{
			Message: "Failed to accept websocket connection.",
			Detail:  err.Error(),
		})
		return
	}
	p.logUpgrade(upgrade, http.StatusSwitchingProtocols)
	p.serveSession(ws, gateOf(r.Context().Value(connKey{}).(net.Conn)), upgrade, config)
}

func (p *Peer) logUpgrade(upgrade *Upgrade, status int) {
	p.update(func() {
		upgrade.Seq = len(p.upgrades) + 1
		upgrade.Status = status
		p.upgrades = append(p.upgrades, upgrade)
	})
}

// misbehave carries out a fault and says whether the request goes on as usual after it.
func (p *Peer) misbehave(w http.ResponseWriter, r *http.Request, upgrade *Upgrade, fault *UpgradeFault) bool {
	if fault.DelayMS > 0 {
		select {
		case <-time.After(time.Duration(fault.DelayMS) * time.Millisecond):
		case <-r.Context().Done():
			return false
		}
	}
	switch fault.Action {
	case "delay":
		return true
	case "hang":
		released := p.releasedChannel()
		p.logUpgrade(upgrade, 0)
		select {
		case <-released:
		case <-r.Context().Done():
		}
		// Gone without an answer: this request is over, released or not.
		gateOf(r.Context().Value(connKey{}).(net.Conn)).reset()
		return false
	case "reset":
		p.logUpgrade(upgrade, 0)
		gateOf(r.Context().Value(connKey{}).(net.Conn)).reset()
		return false
	}
	p.logUpgrade(upgrade, fault.Status)
	for name, value := range fault.Headers {
		w.Header().Set(name, value)
	}
	body := []byte(fault.Text)
	contentType := "text/plain; charset=utf-8"
	if len(fault.Body) > 0 && string(fault.Body) != "null" {
		body, contentType = fault.Body, "application/json; charset=utf-8"
	}
	if fault.ContentType != "" {
		contentType = fault.ContentType
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(fault.Status)
	_, _ = w.Write(body)
	return false
}

func check(config Config, upgrade *Upgrade) (int, any) {
	server := config.Server
	if !slices.Contains(server.Paths, upgrade.Path) {
		return http.StatusNotFound, problem{Message: "Route not found."}
	}
	if !server.Licensed {
		return http.StatusForbidden, problem{Message: "AI Gateway requires a Premium license."}
	}
	if upgrade.Key == "" {
		return http.StatusUnauthorized, problem{Message: "AI Gateway key required."}
	}
	if !slices.Contains(config.GatewayKeys, upgrade.Key) {
		return http.StatusUnauthorized, problem{Message: "AI Gateway key invalid."}
	}
	if err := checkVersion(server.Version, upgrade.Version); err != nil {
		return http.StatusBadRequest, problem{
			Message: "Incompatible or unparsable version",
			Validations: []validation{
				{"version", err.Error()},
				{"client_api_version", upgrade.Version},
				{"server_api_version", server.Version},
			},
		}
	}
	return 0, nil
}

// checkVersion says whether a server can serve a client: same major, and a minor that is
// not newer than the server's.
func checkVersion(own, given string) error {
	ownMajor, ownMinor, err := parseVersion(own)
	if err != nil {
		return err
	}
	major, minor, err := parseVersion(given)
	switch {
	case err != nil:
		return err
	case major > ownMajor:
		return fmt.Errorf("server is at version %s, behind requested major version %s", own, given)
	case major < ownMajor:
		return fmt.Errorf("version %s is no longer supported", given)
	case minor > ownMinor:
		return fmt.Errorf("server is at version %s, behind requested minor version %s", own, given)
	}
	return nil
}

func parseVersion(text string) (major, minor int, err error) {
	parts := strings.Split(text, ".")
	if len(parts) != 2 {
		return 0, 0, fmt.Errorf("invalid version string: %s", text)
	}
	if major, err = strconv.Atoi(parts[0]); err != nil {
		return 0, 0, fmt.Errorf("invalid major version: %s", text)
	}
	if minor, err = strconv.Atoi(parts[1]); err != nil {
		return 0, 0, fmt.Errorf("invalid minor version: %s", text)
	}
	return major, minor, nil
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
