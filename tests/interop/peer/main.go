// Command peer serves the endpoint that an AI gateway dials on coderd, on the
// libraries coderd itself uses, so that tests meet their behaviour and not our idea of it.
//
// ../README.md describes the control API.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// Options are the things that cannot change while the peer runs.
type Options struct {
	addr         string
	control      string
	tlsCert      string
	tlsKey       string
	keepAlive    time.Duration
	writeTimeout time.Duration
	heartbeat    time.Duration
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	var o Options
	flag.StringVar(&o.addr, "addr", "127.0.0.1:0", "address of the coderd endpoint")
	flag.StringVar(&o.control, "control", "127.0.0.1:0", "address of the control API")
	flag.StringVar(&o.tlsCert, "tls-cert", "", "PEM file; with -tls-key the endpoint speaks TLS")
	flag.StringVar(&o.tlsKey, "tls-key", "", "PEM file")
	flag.DurationVar(&o.keepAlive, "keepalive", 30*time.Second, "interval of yamux pings")
	flag.DurationVar(&o.writeTimeout, "write-timeout", 10*time.Second, "yamux ping and write timeout")
	flag.DurationVar(&o.heartbeat, "heartbeat", 60*time.Second, "interval of gateway key checks")
	flag.Parse()
	if err := run(o); err != nil {
		log.Fatal(err)
	}
}

func run(o Options) error {
	peer := newPeer(o)
	scheme := "http"
	if o.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
		if err != nil {
			return err
		}
		peer.tls = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
		scheme = "https"
	}
	if err := peer.openListener(); err != nil {
		return err
	}
	control, err := net.Listen("tcp", o.control)
	if err != nil {
		return err
	}
	endpoint := peer.endpoint()
	ready := map[string]any{
		"coderd":       scheme + "://" + endpoint.String(),
		"coderd_port":  endpoint.Port,
		"control":      "http://" + control.Addr().String(),
		"control_port": control.Addr().(*net.TCPAddr).Port,
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	go exitWithParent()
	return http.Serve(control, peer.controlHandler())
}

// exitWithParent ends the process when its standard input ends: a test run that is
// killed leaves no peer behind.
func exitWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
