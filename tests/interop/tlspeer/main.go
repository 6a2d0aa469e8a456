// tlspeer plays one side of the TLS between daemon and forwarder, as a Go program would.
//
//	tlspeer serve CERT KEY CLIENT-CA [VERSION]      listens, prints its address, echoes a line to each client
//	tlspeer dial ADDRESS NAME CERT KEY CA [VERSION] sends a line, prints what comes back
//
// VERSION (1.2 or 1.3) is the only TLS version it speaks. What goes wrong is printed as "error: …".
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const patience = 20 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 4 && args[0] == "serve":
		return serve(args[1], args[2], args[3], args[4:])
	case len(args) >= 6 && args[0] == "dial":
		return dial(args[1], args[2], args[3], args[4], args[5], args[6:])
	}
	return errors.New("usage: see the top of main.go")
}

func serve(cert, key, clientCA string, version []string) error {
	config, err := config(cert, key, clientCA, version)
	if err != nil {
		return err
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go echo(conn)
	}
}

func echo(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Fprint(conn, line)
}

func dial(address, name, cert, key, ca string, version []string) error {
	config, err := config(cert, key, ca, version)
	if err != nil {
		return err
	}
	config.ServerName = name
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(conn, "from Go")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	fmt.Print(line)
	return nil
}

// config trusts what is in the file ca, whichever side it is for.
func config(cert, key, ca string, version []string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", ca)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS12,
	}
	if len(version) > 0 {
		only := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[version[0]]
		config.MinVersion, config.MaxVersion = only, only
	}
	return config, nil
}
