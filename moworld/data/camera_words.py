"""Words for camera motion in eleven languages, as regular expressions: subject and verb in one clause, and phrases of film making.

A camera as a thing of the scene ("a security camera", "a photographer's camera") is no subject: subjects are definite, or open a clause.
Statements that the camera stands still count too: they describe the camera, not the scene.
"""

import re
from dataclasses import dataclass
from functools import cache

WORD_GAP = r"(?:\s*,[^,.;]{1,40},)?(?:\s+[\w'’-]+){0,3}?\s+"  # up to three words between subject and verb, after an insertion
FLAGS = re.IGNORECASE


@dataclass(frozen=True)
class Words:
    """Camera words of a language. `subject` and `verb` match in this order with `gap` between them; `phrases` match alone.

    verb_first: the verb may also precede the subject, as in Arabic
    """

    subject: str
    verb: str
    phrases: str
    gap: str = WORD_GAP
    verb_first: bool = False

    def pattern(self) -> str:
        orders = [f"(?:{self.subject}){self.gap}(?:{self.verb})"]
        orders += [f"(?:{self.verb}){self.gap}(?:{self.subject})"] if self.verb_first else []
        return "|".join([*orders, self.phrases])


CLAUSE = r"(?:^|[.!?;]\s+)"
START = r"(?:^|[.;:!?,]\s*|\b(?:as|while|then|and|where|when|before|after)\s+)"
ADVERBS = r"(?:\s+(?:\w+ly|is|are|that|which|then|now|also|begins?|starts?|continues?|keeps?|seems?|appears?|to|position|slowly|back|in|gently)|\s*,[^,.;]{1,40},){0,4}\s+"
EN_MOVES = (
    r"(?:pan|tilt|zoom|mov|turn|rotat|orbit|track|doll[iy]|fly|flies|flew|glid|follow|travel|push|pull|climb|ris|drift|slid|shift|swing|swung|swoop"
    r"|advanc|circl|arc|descend|ascend|truck|cran|sweep|swept|approach|retreat|chang|revolv|spin|back|float|soar|hover|lower|lift|pass|wander"
    r"|walk|proceed|pivot|roll|shak|sway|whip|crawl|creep|reced|withdraw|roam|weav|div|plung|ventur|head|mak|skim|tour|jolt|wobbl|step|run|runn|narrow|widen|linger|spiral|continu|progress|bob|jerk|plummet|nudg)(?:e?s|ing|ed|ies|ning|med|ming|ned)?\b"
    r"|(?:grows?|gets?|comes?|draws?)\s+(?:larger|closer|nearer|smaller)\b|(?:was|is)\s+(?:made|taken|shot|filmed|recorded)\s+(?:while|from a moving|by a)\b|(?:begins|starts|opens|ends)\s+(?:on|at|with|by)\b|(?:does\s?n['’]t|does\s+not|never)\s+move|is\s+(?:carried|led|taken|moved|pulled|guided)\b"
    r"|(?:remains?|stays?|holds?|stands?|is|keeps?)\s+(?:still|static|fixed|stationary|motionless|steady|locked|unmoving)"
)
EN_WAYS = r"(?:forwards?|backwards?|left|right|up|upwards?|down|downwards?|through|along|past|over|across|around|towards?|into|above|low|away|out|in|closer|deeper|between|beneath|under|beside|alongside|at|from|behind|by|outside|inside|beyond)\b"
EN_SHOT = r"(?:shots?|views?|footage|videos?|movements?|motion|moves?|takes?|clips?|sequences?|perspective|flights?|camera)\b"
EN_STYLES = (
    r"(?:dolly|tracking|panning|tilting|orbit(?:ing)?|hand-?held|first[- ]person|crane|jib|drone|gimbal|steadicam|trucking|static|fixed|stationary"
    r"|locked[- ]off|zoom(?:ing)?|dash-?cam|whip[- ]pan|moving|walking|push-in|pull-back|arc(?:ing)?|shaky|aerial tracking|fly-?through|body-?cam|following)"
)
ENGLISH = Words(
    subject=(
        rf"(?:\b(?:the|our|this)\s+(?:[\w'’-]+\s+)?|{START}(?:an?\s+)?(?:slow\s+|smooth\s+|moving\s+|virtual\s+|unsteady\s+|shaky\s+|free\s+|floating\s+|wandering\s+|steady\s+|handheld\s+|(?:low|high)-angle\s+|bird's[- ](?:eye\s+)?)?)"
        r"(?<!security )(?<!surveillance )(?<!cctv )(?<!film )(?<!movie )(?<!tv )(?<!traffic )(?<!speed )(?<!old )(?<!vintage )"
        r"(?:camera|lens|viewer|viewpoint|vantage point|point of view|pov|perspective|viewing angle|angle|observer|view|frame|framing|shot|footage|video|scene|image|picture|clip|recording|gaze|cameraman|camera ?person|camera operator|person filming)"
    ),
    verb=EN_MOVES,
    gap=ADVERBS,
    phrases="|".join([
        r"\b(?:slow|smooth|quick|gentle|steady|fast|rapid|whip|lateral|horizontal|vertical|sweeping|continuous|subtle|gradual|camera|reverse|upward|downward|leftward|rightward|full)\s+"
        r"(?:pan|tilt|zoom|dolly|push|pull|orbit|arc|rotation|track|sweep|movement|motion|truck|crane|flight|roll|descent|ascent|glide)\b",
        r"(?:^|[.,;:]\s*|\b(?:slowly|quickly|to|then|and|a)\s+)(?:pan|tilt|zoom|dolly|push|pull|truck|crane|boom|pedestal|orbit)s?[ -](?:left|right|up|down|in|out|across|over|forward|backward|back|around|toward)\b",
        r"\b(?:panning|tilting|zooming)\s+" + EN_WAYS,
        r"\b(?:slow|smooth|steady|gentle|quick)(?:,\s+\w+)?\s+(?:advance|approach|push-in|pull-back|walk|drive|fly-?over)\b(?!\s+of)|\b(?:continuous|unbroken)\s+take\b|\bhyper-?lapse\b|\bcloser and closer to\b",
        r"\b(?:rotating|descending|ascending|circling|panning|tilting|travell?ing|revolving|gliding|rising|sweeping|shifting|drifting|orbiting|advancing|receding)\s+(?:view|viewpoint|shot|perspective|footage|camera)\b",
        rf"\b{EN_STYLES}[ -]+(?:\w+\s+)?{EN_SHOT}",
        r"\b(?:aerial|overhead|bird's[- ]eye)\s+" + EN_SHOT + r"\s+(?:\w+ly\s+)?(?:circl|fly|glid|descend|ascend|ris|mov|orbit|sweep|travel|soar|drift|pan|push|pull|track|advanc|climb|pass|rotat|approach|cross)\w*",
        r"\b(?:footage|video|shot|clip|view)s?\s+(?:\w+ly\s+)?(?:flying|gliding|advancing|moving|travell?ing|driving|walking|descending|rising|circling|orbiting|drifting|panning|following|tracking|approaching|soaring|ascending|rotating|passing)\b",
        r"\b(?:pov|fpv)\b|\bfirst[- ]person\b|\bwalk-?through\s+(?:of|through|video|tour)|\bfly-?(?:through|by)\b|\bflyover\s+(?:of|shot|footage|video)",
        r"\b(?:walking|driving|flying|virtual)\s+tour\b|\bcamera\s?(?:work|movement|motion|move|rotation|flight|path|angle)s?\b",
        r"\b(?:the|our)\s+(?:(?:moving|virtual|drone|handheld|steady|low)\s+)?(?:camera|cameraman|cameraperson)\b(?!['’]s\s+(?:strap|body|lens)|\s+(?:bag|strap|shop|store|crew|lens|case|team|man|of|in|with|above|over|under|below|near|beside|and)\b"
        r"|(?:\s+\w+){0,2}\s+(?:(?:is|sits|placed|left)\s+on|hangs?|hung|stands?|lies|lay|sits?|mounted|rests?|belongs?|rusts?|dusty|broken|attached|placed|fixed\s+(?:to|above|on))\b)(?=\s+\w)",
        START + r"(?:we|you)\s+are\s+(?:carried|led|taken|moved|pulled|guided|drawn|brought)\b|" + CLAUSE + r"drone\s+(?:\w+ly\s+)?(?:\w+ing)\b",
        r"\bthrough the windshield\b|" + CLAUSE + r"(?:an?\s+)?(?:\w+\s+)?(?:ride|flight)\s+(?:through|over|along|across|down|above)\b",
        rf"{START}we\s+(?:\w+ly\s+)?(?!see\b|can\b|are\b|have\b|find\b|look\b|notice\b|observe\b|sell\b|buy\b|need\b|want\b|love\b|\w+ed\b)\w+\s+(?:\w+ly\s+)?{EN_WAYS}",
        CLAUSE + r"(?:an?\s+)?(?:journey|ride|drive|flight|stroll|trip|glide|walk|onward|forward|backward)\s+(?:through|down|along|over|across|into|past|up)\b",
        r"\b(?:everything|surroundings|whoever films)\s+(?:\w+ly\s+)?(?:swing|mov|slid|shift|turn|climb|walk|glid)\w*",
        r"\b(?:dolly|push|pull)[ -](?:in|out|back)\b|\bwhip[ -]pan\b|\b360[- ]?(?:degrees?)?[- ](?:rotation|turn|spin|pan|shot|orbit|sweep)",
        r"\b(?:seen|filmed|shot|recorded|captured|viewed|taken)\s+(?:\w+ly\s+)?(?:while|as we|handheld|on a gimbal|(?:from|by|with|through|out of)\s+(?:an?|the)\s+(?:\w+\s+)?"
        r"(?:moving|driving|flying|drone|train|car|boat|vehicle|helicopter|bus|plane|gimbal|steadicam|dashcam|passing)\b)",
        rf"(?:{START}|\bscene,\s*)(?:we|you|one)\s+(?:\w+ly\s+|can\s+|then\s+|now\s+|begin to\s+|start to\s+|continue to\s+|seem to\s+|are\s+)?"
        r"(?:mov|walk|turn|fly|go|travel|glid|advanc|drift|pass|enter|rise|climb|descend|head|step|circl|float|follow|approach|driv|ascend|cross|emerg|swing|zoom|pan|push|proceed|soar|back)\w*",
        r"(?:^|[.!?;]\s+)(?:\w+ly\s+)?(?:moving|going|flying|walking|gliding|drifting|turning|rotating|travell?ing|driving|circling|orbiting|descending|ascending|rising|advancing|climbing|sweeping|trucking|passing"
        rf"|pushing|pulling|backing|soaring|hovering|floating|tracking|looking|swinging|heading|approaching|strolling|running|spinning)\s+(?:\w+ly\s+|straight\s+)?{EN_WAYS}(?![^.]*,\s*(?:an?|the|two|three|some|several|many)?\s*(?:\w+\s+)?(?:man|men|woman|women|people|person|child|children|boy|girl|dog|horse|bird|geese|couple|car|hiker|tourist|cyclist|runner)s?\b)",
    ]),
)
FRENCH = Words(
    subject=r"\b(?:la\s+(?:caméra|vue|perspective|scène|prise de vue|vidéo|séquence)|notre\s+(?:regard|vue|point de vue)|le\s+(?:plan|cadre|cadrage|regard|spectateur|point de vue|drone filme)|le\s+zoom|l['’](?:objectif|observateur|angle de vue|angle|image)|(?:(?<=^)|(?<=[.;]\s))(?:une\s+)?caméra)(?!\s+(?:de|du|des)\b(?!\s+la\s+caméra)|\s+d['’])",
    verb=r"(?:s['’]|se\s+)?(?:avanc|recul|déplac|pivot|tourn|gliss|mont(?!r)|descend|zoom|sui[tv]|survol|él[èe]v|approch|éloign|élargi|resserr|travers|parcour|balai|balay|long(?!u)|boug|progress|flott|enfonc|remont|contourn|orbit|bascul|inclin|chang|rapproch|panoram|vol|march|décal|plong|effectu|commence\s+(?:sur|par)|ne\s+bouge|rest\w+\s+(?:fixe|immobile|statique))\w*",
    phrases="|".join([
        r"\btravell?ing\b|\bpanoramique\b|\bzoom(?:s)?\s+(?:avant|arrière|sur|lent|rapide)|\bplan[- ](?:fixe|séquence|subjectif|aérien en mouvement)|\bcaméra\s+(?:à l['’]épaule|au poing|subjective|fixe|embarquée|portée|à la main|en mouvement)|\bvue\s+subjective",
        r"\b(?:vue|prises?|images?|plans?|vidéo|séquence|survol)\s+(?:\w+\s+){0,3}(?:par|d['’]un|de|en|au)\s+drone|\bpremière personne|\bmouvements?\s+de\s+(?:la\s+)?caméra|\bdrone\s+(?:qui\s+)?survol\w+|\bsurvol\s+(?:de|du|des|d['’])",
        r"\b(?:vue|plan|prise|images?|vidéo|séquence)\s+(?:\w+\s+){0,2}(?:survol|travers|longe|mont(?!r)|descend|avanç)\w*ant\b",
        CLAUSE + r"(?:un\s+|une\s+)?(?:vol\s+(?:au-dessus|sur)|(?:lent|doux|douce|rapide|fluide)e?s?\s+(?:avancée|progression|montée|descente|rotation|ascension|recul|mouvement)|traversée\s+(?:de|d['’])\w*|mouvement\s+(?:circulaire|lent|fluide|avant|arrière|rotatif|ascendant|descendant|latéral|panoramique)|rotation\s+autour)",
        r"\bla\s+caméra\b(?!\s+(?:de|du|des|sur|est\s+(?:posée|fixée|accrochée|montée)|pend|repose|à\s+côté|au-dessus)\b|\s+d['’])(?=\s+\w)|\bnous\s+(?:nous\s+)?(?!voyons|sommes|avons|pouvons|apercevons|découvrons|observons|regardons|distinguons)\w{3,}ons\b",
        r"\bnous\s+(?:nous\s+)?(?:\w+ment\s+)?(?:avanç|march|travers|mont(?!r)|descend|tourn|gliss|approch|éloign|survol|suiv|entr|déplaç|parcour|pass|long|vol|progress|recul|pénétr|enfonç)\w*ons\b",
        r"(?:^|[.;,]\s*)on\s+(?:\w+ment\s+)?(?:avance|marche|monte|descend|traverse|tourne|passe|longe|survole|entre|recule|progresse|suit|glisse|se\s+(?:déplace|rapproche|dirige)|s['’](?:approche|éloigne|avance|enfonce))\b",
        r"(?:^|[.;]\s*)en\s+(?:avançant|marchant|survolant|reculant|tournant)\b|\b(?:filmé|tourné)e?s?\s+(?:en|depuis|à|caméra|au|d['’]un|par)\b|\b(?:au|en|par)\s+drone\b|\bmouvements?\s+de\s+grue",
    ]),
)
GERMAN = Words(
    subject=r"\b(?:(?:die|unsere)\s+(?:kamera|ansicht|perspektive|sicht|aufnahme|einstellung|szene|blickrichtung|drohne filmt)|(?:(?<=^)|(?<=[.;]\s))(?:eine\s+)?kamera|der\s+zoom|(?:der|unser)\s+(?:blick|bildausschnitt|ausschnitt|betrachter|zuschauer|blickwinkel|beobachter|blickpunkt)|das\s+(?:bild|objektiv|video|sichtfeld))",
    verb=r"(?:fährt|schwenkt|dreht|bewegt|gleitet|zoomt|folgt|fliegt|steigt|sinkt|senkt|hebt|neigt|kreist|umkreist|umrundet|wandert|schwebt|rückt|nähert|entfernt|verschiebt|rotiert|kippt|zieht|geht|wechselt|weitet|überfliegt|durchquert|läuft|rollt|schiebt|streift|ändert|taucht|schweift|wackelt|klettert|passiert|tastet|bleibt\s+(?:ruhig|still|statisch|unbewegt|stehen|starr|fest)|steht\s+still|verharrt)\b",
    gap=r"(?:\s*,[^,.;]{1,40},)?(?:,?\s+[\w'’-]+){0,4}?\s+",
    phrases="|".join([
        r"\bkamera(?:fahrt|schwenk|bewegung|flug|drehung|zoom|führung)\w*|\b\w*schwenk(?:s|e|en)?\b(?!t)|\b(?:heran|heraus|hinein|raus|rein|weg)(?:ge)?zoo?m\w*|\bzoom\s+(?:auf|in|aus|zu)\b",
        r"\bdrohnen(?:aufnahme|flug|video|perspektive|bilder|fahrt)\w*|\bhandkamera\w*|\bkamera\s+in\s+der\s+hand\s+gefilmt|\b(?:statisch|fest|fix|starr|unbewegt|verwackelt|bewegt|wackelig)\w*\s+(?:aufnahme|kamera|einstellung|video|bild)\b",
        r"\b(?:ich|ego)[- ]?perspektive|\bverfolgungs(?:aufnahme|fahrt)|\büberflug\b|\bkreisfahrt\b|\baus\s+(?:dem|einem)\s+(?:fahrenden|fliegenden)\b|\brundgang\s+durch\b",
        CLAUSE + r"(?:ein\w*\s+)?(?:(?:langsam|ruhig|sanft|schnell|niedrig|tief)\w*\s+)?(?:flug\s+(?:über|durch|entlang)|(?:vorwärts|rückwärts|seitwärts|auf|ab|kreis|dreh)bewegung|(?:vorwärts|rückwärts)fahrt|fahrt\s+(?:durch|entlang|über))|"
        + CLAUSE + r"man\s+(?:läuft|geht|fährt|fliegt|bewegt|schwebt|gleitet|folgt|steigt)\b",
        r"\bwir\s+(?:\w+\s+)?(?:gehen|laufen|fahren|fliegen|bewegen|folgen|steigen|gleiten|nähern|biegen|betreten|passieren|durchqueren|drehen|schweben|schreiten|treten|überfliegen|ziehen|umrunden)\b",
        r"\bdie\s+kamera\b(?!\s+(?:auf|in|am|an|über|neben|des|der|von|hängt|steht\s+(?:auf|in|neben|am)|liegt|ist\s+(?:an|auf|über))\b)(?=\s+\w)|\bim\s+vorbei(?:fahren|gehen|flug|fliegen)\b|\bvorbeifahrt\b|\b(?:gefilmt|mitgefilmt)\b|\bmit\s+(?:der|einer)\s+drohne\s+(?:\w+\s+){0,4}(?:ge\w+|überflogen|aufgenommen)\b",
        r"\bwir\s+(?:uns\s+)?(?!sehen|sind|haben|können|befinden|blicken|erkennen|hören|schauen)\w{3,}(?:en|ern|eln)\b",
        r"\b(?:gehen|laufen|fahren|fliegen|bewegen|gleiten|schweben|biegen)\s+wir\b",
    ]),
)
SPANISH = Words(
    subject=r"\b(?:(?:la|nuestra)\s+(?:cámara|grabación|filmación|vista|toma|perspectiva|imagen|escena|mirada|lente)|(?:el|nuestro)\s+(?:plano|encuadre|espectador|objetivo|punto de vista|observador|ángulo|lente|cuadro|zoom)|(?:(?<=^)|(?<=[.;]\s))(?:una\s+)?cámara)(?!\s+(?:de|del|fotográfica)\b(?!\s+(?:visión|la\s+cámara)))",
    verb=r"(?:se\s+)?(?:gir|avanz|retroced|mue?v|desplaz|desliz|acerc|alej|sube|sub[ií]|baja|asc[ie]+nd|desc[ie]+nd|rota|rotan|orbit|rode|sigue|recorr|pane|abre|cierra|inclin|elev|sobrevue?l|viaj|vuel|camin|atravies|cruz|barr|flot|cambi|pivot|traslad|adentr|hace\s+(?:zoom|un)|zoom|tiembla|comienza\s+(?:en|con)|amplía|(?:permanece|queda|mantiene|está)\s+(?:fij|quiet|inmóvil|estátic))\w*",
    phrases="|".join([
        r"\btravell?ing\b|\bpaneos?\b|(?<!vista )\bpanorámica\s+(?:lenta|rápida|suave|hacia|horizontal|vertical|desde|circular)|\bzoom\s+(?:in|out|sobre|a|al|hacia|en|lento|de)\b|\bha(?:ce|ciendo)\s+zoom|\bplano\s+(?:fijo|secuencia|subjetivo|en movimiento|de seguimiento)",
        r"\bcámara\s+(?:en mano|fija|subjetiva|al hombro|en movimiento|estática|inmóvil|móvil)|\b(?:toma|plano|vídeo|video|imagen|imágenes|vista|grabación)s?\s+(?:\w+\s+){0,3}(?:con|de|desde\s+un|por)\s+(?:un\s+)?dron\b|\btomas?\s+(?:fija|de seguimiento|subjetiva|en movimiento|estática)",
        r"\bprimera\s+persona|\bmovimientos?\s+de\s+(?:la\s+)?cámara|\b(?:toma|plano|vista)\s+\w+\s+(?:que\s+)?sobrev(?:uel|ol)\w+|\b(?:grabad|filmad|rodad)[oa]s?\s+(?:cámara|desde|mientras|en|con|a)\b|\bbarridos?\s+(?:lento|rápido|horizontal|vertical|de|hacia)\b",
        r"\bla\s+cámara\b(?!\s+(?:de|del|fotográfica|sobre|en|está\s+(?:sobre|en|colgad)|cuelga|reposa|junto|y)\b)(?=\s+\w)|\bcámara\s+lenta\s+\w+(?:ndo)(?:se)?\b",
        CLAUSE + r"(?:caminata|paseo|viaje|recorrido)\s+(?:\w+\s+)?(?:en|por|a\s+través)\b|" + CLAUSE + r"se\s+(?:avanza|camina|recorre|entra|sube|baja|atraviesa|sobrevuela|pasa)\b",
        r"\b(?:nos\s+\w{4,}mos|avanzamos|caminamos|recorremos|subimos|bajamos|volamos|giramos|entramos|atravesamos|cruzamos|seguimos|pasamos|retrocedemos|sobrevolamos|ascendemos|descendemos)\b",
        CLAUSE + r"(?:un\s+|una\s+)?(?:vuelo\s+(?:sobre|por|a\s+través)|(?:lent[oa]|suave|rápid[oa])\s+(?:avance|giro|ascenso|descenso|acercamiento|retroceso|movimiento)|(?:avance|giro|acercamiento|movimiento|recorrido)\s+(?:circular|lento|suave|lateral|envolvente|hacia|ascendente|descendente)|rotación\s+alrededor)",
        r"(?:^|[.;]\s*)(?:avanzando|caminando|sobrevolando|girando|volando|moviéndose)\s+(?:hacia|por|entre|sobre|a través|alrededor|lentamente)",
    ]),
)
ITALIAN = Words(
    subject=r"(?:\b(?:la|nostra)\s+(?:registrazione|camera(?!\s+(?:da|con|ha|d['’]))|telecamera|videocamera|macchina da presa|cinepresa|vista|visuale|prospettiva|ripresa|scena|visione)|\bl['’](?:inquadratura|obiettivo|osservatore|immagine|angolazione)|\b(?:lo|il|nostro)\s+(?:spettatore|sguardo|punto di vista|campo visivo|zoom)|(?:(?<=^)|(?<=[.;]\s))(?:una\s+)?(?:telecamera|videocamera))(?!\s+(?:di|del|della|dei|degli|delle)\b(?!\s+(?:presa|vista))|\s+d['’])",
    verb=r"(?:si\s+)?(?:avanz|indietreggi|spost|muov|ruot|gira|giran|scivol|sale|scend|alz|abbass|avvicin|allontan|segu|orbit|sorvol|zoom|percorr|attravers|inclin|allarg|string|panoram|vola|cammin|solleva|scorr|fluttu|cambi|arretr|proced|viaggi|innalz|(?:rimane|resta|è)\s+(?:fiss|ferm|immobil|static))\w*",
    phrases="|".join([
        r"\bcarrellat[ae]\b|(?<!vista )\bpanoramica\s+(?:lenta|rapida|fluida|verso|orizzontale|verticale|da|a)\b|\bzoom\s+(?:su|in|out|verso|avanti|indietro|lento|sul|sulla)|\bzoomata|\binquadratur[ae]\s+(?:fiss|static|in movimento|mobil)\w*|\bcamera\s+(?:a mano|fissa|a spalla)",
        r"\bripres[ae]\s+(?:fiss|static|aere\w+\s+(?:con|che)|in soggettiva|in movimento|a mano|mobil)\w*|\b(?:ripres[ae]|vist[ae]|video|immagini)\s+(?:\w+\s+){0,2}(?:con|da|di)\s+(?:un\s+)?drone|\bsoggettiva\b|\bprima\s+persona|\bmoviment[oi]\s+(?:di|della)\s+(?:camera|macchina|telecamera)",
        r"\bla\s+(?:telecamera|videocamera|cinepresa|macchina da presa)\b(?!\s+(?:di|del|della|su|sul|sulla|è\s+(?:montata|appesa|posata)|pende|accanto|e)\b)(?=\s+\w)",
        r"\b(?:girat|filmat)[oaie]\s+(?:da|dal|dalla|in|con|a|mentre)\b|\bripres[oaie]\s+(?:da\s+un|dal|dalla|mentre|in\s+(?:corsa|volo))\b",
        CLAUSE + r"si\s+(?:entra|avanza|cammina|sale|scende|attraversa|percorre|procede|passa|sorvola)\s+\w+|\bci\s+\w{4,}iamo\b",
        r"\b(?:camminiamo|avanziamo|ci\s+(?:muoviamo|avviciniamo|allontaniamo|spostiamo|addentriamo|dirigiamo)|percorriamo|saliamo|scendiamo|voliamo|giriamo|entriamo|attraversiamo|seguiamo|passiamo|sorvoliamo|procediamo|proseguiamo)\b",
        CLAUSE + r"(?:un\s+|una\s+)?(?:volo\s+(?:sopra|su|sulle|sul|attraverso)|(?:lent[oa]|dolce|rapid[oa])\s+(?:avanzata|avanzamento|rotazione|salita|discesa|avvicinamento|movimento)|movimento\s+(?:circolare|lento|fluido|laterale|in avanti|ascendente)|rotazione\s+attorno)",
        r"(?:^|[.;]\s*)(?:avanzando|camminando|sorvolando|volando|girando)\s+(?:verso|lungo|tra|sopra|attraverso|intorno|lentamente|per)",
    ]),
)
PORTUGUESE = Words(
    subject=r"\b(?:(?:a|nossa)\s+(?:filmagem|gravação|câmera|câmara|vista|perspectiva|perspetiva|tomada|imagem|cena|lente|visão)|(?:o|nosso)\s+(?:plano|enquadramento|espectador|espetador|ponto de vista|observador|quadro|ângulo|olhar|zoom)|(?:(?<=^)|(?<=[.;]\s))(?:uma\s+)?câm[ea]ra)(?!\s+(?:municipal|fotográfica|(?:de|do|da|dos|das)\b(?!\s+(?:visão|câm))))",
    verb=r"(?:se\s+)?(?:avanç|recu|move|mov[ei]|desloc|gira|giran|rod[ao]|desliz|sobe|subi|desce|descen|aproxim|afast|segue|percorr|sobrevo|abre|fecha|inclin|elev|orbit|contorn|viaj|voa|caminh|atravess|varre|flutu|mud[ao]|circul|rodei|ascend|vira|faz\s+(?:um|zoom)|dá\s+zoom|(?:permanece|fica|está|mantém-se)\s+(?:fix|parad|imóvel|estátic))[\w-]*",
    phrases="|".join([
        r"\btravell?ing\b|(?<!vista )\bpanorâmica\s+(?:lenta|rápida|suave|para|horizontal|vertical|da|de)\b|\bzoom\s+(?:em|in|out|no|na|sobre|lento|para)\b|\bplano\s+(?:fixo|sequência|subjetivo|em movimento)|\bcâm[ea]ra\s+(?:na mão|fixa|subjetiva|parada|estática|de mão|ao ombro|em movimento)",
        r"\b(?:imagem|imagens|tomada|vista|vídeo|filmagem|plano)s?\s+(?:\w+\s+){0,2}(?:de|com|por)\s+(?:um\s+)?drone|\bdrone\s+sobrevoando|\bprimeira\s+pessoa|\bmovimentos?\s+d[ea]\s+câm[ea]ra|\btomada\s+(?:fixa|de acompanhamento|em movimento|estática)",
        r"\ba\s+câm[ea]ra\b(?!\s+(?:municipal|fotográfica|de|do|da|dos|das|sobre|em|está\s+(?:sobre|em|presa|pendurada)|e)\b)(?=\s+\w)|\bnos\s+\w{4,}mos\b|\b\w{4,}mo-nos\b",
        r"\b(?:filmad|gravad)[oa]s?\s+(?:de|do|da|desde|em|com|por|a|enquanto)\b",
        CLAUSE + r"(?:caminha|entra|avança|sobe|desce|passa)-se\b",
        r"\b(?:caminhamos|avançamos|andamos|nos\s+(?:movemos|aproximamos|afastamos|deslocamos)|(?:movemo|aproximamo|deslocamo|afastamo)-nos|seguimos|subimos|descemos|voamos|giramos|entramos|atravessamos|passamos|percorremos|sobrevoamos|deslizamos)\b",
        CLAUSE + r"(?:um\s+|uma\s+)?(?:voo\s+(?:sobre|por|através)|(?:lent[oa]|suave|rápid[oa])\s+(?:avanço|rotação|subida|descida|aproximação|movimento|giro)|movimento\s+(?:circular|lento|suave|lateral|para|ascendente)|(?:aproximação|rotação)\s+(?:lenta|suave|em torno)|giro\s+(?:lento|em torno))",
        r"(?:^|[.;]\s*)(?:avançando|caminhando|sobrevoando|voando|girando)\s+(?:por|pelo|pela|sobre|entre|em|para|ao|lentamente)",
    ]),
)
RUSSIAN = Words(
    subject=r"\b(?:камера|кадр|ракурс|вид(?!\s+на\b)|объектив|зритель|наблюдатель|взгляд|точка\s+(?:зрения|обзора|съ[её]мки)|план|перспектива|изображение|обзор|картинка|видео|ролик|запись|угол\s+обзора)\b(?!\s+(?:наблюдения|видеонаблюдения|хранения))",
    verb=r"(?:движ|двиг|двин|поворач|поверн|вращ|обле[тп]|проле[тп]|приближ|отдал|отъезж|наезж|смеща|скольз|подним|поднима|опуска|панорам|следу|перемещ|плыв|продвиг|летит|летя|едет|проезж|проход|меня[ею]|кружи|крутит|зумм?ир|удал|наклон|огиба|парит|взлета|взмыва|отступа|уходит|ид[её]т|устремл|углубл|обход|сдвиг|враща|трясётся|дрожит|сужа|расширя|оста[её]тся\s+(?:неподвиж|статич)|неподвиж|статич|замерла)\w*",
    phrases="|".join([
        r"\b(?:медленн|плавн|быстр|кругов)\w+\s+панорам\w*|\bпанорамирован\w*|\b(?:съ[её]мк\w|видео|кадры|вид|пол[её]т)\s+(?:с|на)\s+(?:борта\s+)?(?:дрон|квадрокоптер|коптер|вертол|беспилотник)\w*|\bаэросъ[её]мк\w*|\bот\s+первого\s+лица",
        r"\b(?:наезд|отъезд|проезд|пролёт|пролет|облёт|облет|движени\w|поворот\w?|полёт)\s+камер\w+|\bнаезд\s+на\b|\bзум\b|\b(?:статичн|неподвижн|фиксированн)\w+\s+(?:кадр|план|камер|съ[её]мк)\w*|\bручн\w+\s+камер\w*|\bс[ъ]?[её]мка\s+с\s+рук|\bпрол[её]т\s+(?:над|через|сквозь|вдоль)|\bобл[её]т\b",
        CLAUSE + r"(?:(?:плавн|медленн|быстр|кругов|низк)\w+\s+)?(?:пол[её]т|движение|вращение|подъём|спуск|приближение|отдаление|поворот|прогулка|проход)\s+(?:над|вокруг|впер[её]д|назад|вдоль|сквозь|через|по|к|влево|вправо|вверх|вниз)\b",
        r"\b(?:от)?снят\w{1,3}\s+(?:из|с|на|от|во\s+время|в\s+движении)\b",
        CLAUSE + r"камера\b(?!\s+(?:наблюдения|видеонаблюдения|хранения|висит|стоит|лежит|на|у|над|в|и)\b)(?=\s+\w)|\bкамера\s+(?:плавно|медленно|быстро|затем|постепенно|резко)\b|\bмы\s+(?!видим|смотрим|наблюдаем|можем)\w+(?:ем|ём|им|емся|ёмся|имся)\b",
        r"\bмы\s+(?:\w+\s+){0,2}(?:ид|дви|лет|проход|прош|ед[еу]|поднима|спуска|поворач|приближ|проезж|пролета|огиба|вход|продвиг|плыв|перемещ|скольз|сворач|следу|шага)\w*",
    ]),
)
CHINESE = Words(
    subject=r"(?:镜头|摄像机|摄影机|(?<!监控)(?<!安防)(?<!个)摄像头|(?<!台)(?<!旧)(?<!部)(?<!架)(?<!老)相机|画面|视角|视野|视线|机位|观众|观者|视点|画框|取景)(?![中里内的前]|上(?![升移摇抬])|拍出|下的)",
    gap=r"[^。！？；]{0,8}?",
    verb=r"移动|推进|前进|前移|后退|后移|拉远|拉近|推近|推向|拉开|旋转|环绕|绕着|围绕|上升|下降|升起|升到|升高|降低|上移|下移|左移|右移|摇|平移|横移|扫过|掠过|跟随|跟着|追随|穿过|穿行|穿越|转向|转动|转到|滑动|滑过|缩放|放大|缩小|晃动|抖动|切换|俯冲|飞越|飞过|靠近|接近|远离|向[前后左右上下]|往[前后左右上下]|固定|静止|不动|游走|漂移|倾斜|行走|移向|移到|漫游|盘旋|俯拍|抬升|抬起|变化|扫视|环视|从[左右上下远近]|由[左右上下远近]|拍向|对准|聚焦",
    phrases="|".join([
        r"运镜|航拍|跟拍|固定(?:镜头|机位|拍摄|视角)|静止镜头|手持(?:拍摄|镜头|摄影|摄像|视角)|第一人称|主观(?:镜头|视角)|[推拉摇移跟升降甩]镜头?(?=[^子片])|推轨|变焦|环绕拍摄|边走边拍|[推拉]近镜头|移动(?:镜头|拍摄)|镜头(?:运动|推拉|平移)|无人机(?:视角|拍摄|镜头)",
        r"(?:飞越|飞过|穿过|穿越|掠过|环绕|围绕|绕着|俯冲|推进|上升|下降|旋转|移动|前进|后退|跟随)[^。！？；，]{0,10}(?:镜头|视角|拍摄|运动镜)|(?:^|[。；])(?:跟随|追随|缓缓|慢慢|缓慢)?(?:飞越|穿行|推进|拉远|推近|环绕|跟随|前行|向前)",
        r"(?<![一个支枚只的机])镜头(?!盖|里|中|下|前|架在|放|是)[^。！？]|随着(?:镜头|画面|视角)|从[^。，]{1,10}(?:上|里|中|内|窗)?拍摄|无人机(?:升空|俯瞰|俯拍|航)|(?:^|[。；，])(?:慢慢|缓缓|逐渐)(?:放大|缩小|拉|推)|(?:摄像机|摄影机)(?![放挂装架摆立安拿扛对]|被|盖|旁|店)[^。]",
        r"(?:我们|观众|观者)[^。，！？]{0,6}(?:走|穿过|穿行|前进|飞|移动|进入|来到|沿着|经过|绕|爬|往前|向前|跟随|靠近|登上|驶过|滑过)",
    ]),
)
JAPANESE = Words(
    subject=r"(?:(?<!防犯)(?<!監視)(?<!古い)(?<!デジタル)カメラ|視点|画面|映像|視界|視線|アングル|レンズ|フレーム|ショット|構図|視聴者|画角)(?:が|は|も|、)",
    gap=r"[^。！？]{0,18}?",
    verb=r"移動|前進|後退|(?<!フライ)パン|ズーム|回転|旋回|回る|回り|回っ|上昇|下降|上が|下が|進[みむん]|動[きくい]|追[いうっ]|追従|近づ|遠ざか|寄[りるっ]|引[きくい]|滑[りるっ]|傾[きくい]|ティルト|揺れ|通り抜け|飛[びぶん]|固定|静止|動か|振[らりるっ]|登[りるっ]|降り|切り替|ドリー|横切|巡[りるっ]|めぐ|離れ|周回|移[りるっ]|抜け|くぐ|左に|右に|左へ|右へ|変わ|広が|一周|映して|見渡|入っ|向か|覗|追い|捉えながら|寄って",
    phrases="|".join([
        r"ドローン(?:撮影|映像|ショット|視点|による|で撮)|ドローン[^。]{0,20}(?:撮影|撮っ)|空撮|[一1１]人称|手持ち(?:カメラ|撮影)|手[ブぶ]レ|固定(?:カメラ|ショット|撮影|アングル|された(?:カメラ|視点))|定点(?:カメラ|撮影)|トラッキング|(?<!フライ)パン(?:する|し[てな]|ショット|アップ|ダウン|で)|ズーム(?:イン|アウト|する|し)|ティルト(?:アップ|ダウン|する|し)|ドリー(?:イン|アウト|ショット)",
        r"(?:^|[。、])(?:(?!が)[^。、]){0,24}(?:回り込[みむん]|近づ[きくい]|遠ざか|進[みむん]|飛[びぶん]|追[いうっ]|移動|滑[りるっ]|歩[きくい]|上昇|下降|抜け|巡[りるっ]|めぐ|回る)(?:(?!が)[^。、]){0,6}(?:カメラ|映像|視点|ショット|アングル|動画)|(?:ながら|つつ)[^。、]{0,6}(?:撮影|撮っ|撮ら)|(?:見渡す|寄っていく|近づいていく|追っていく)(?:映像|ショット|カメラ)|から(?:撮影|撮っ|撮ら)|ドローンで|(?:^|[。])(?:(?![がは、])[^。])*(?:入って|進んで|抜けて|上がって|下りて|向かって|近づいて|遠ざかって|回って|飛んで)(?:いく|行く)|[左右上下]から[左右上下](?:へ|に)(?:と)?[^。、]{0,8}(?:映像|ショット|映して|撮)",
        r"(?:^|[。、])カメラ(?:が|は)(?![^。]{0,14}(?:置|あ[るり]|並|設置|掛|取り付|飾|持|付い|載|古|壊))[^。]",
        r"カメラ(?:ワーク|の動き|移動)|主観(?:視点|映像|ショット)|カメラを(?:振|動か|回|左|右|上|下)|追いかけるショット|(?:私たち|私達|我々|僕ら|あなた|観る者|見る者)(?:は|が)[^。]{0,15}(?:進|歩|飛|移動|登|通|入[りるっ]|向か|抜け|くぐ|降り|曲が|近づ|離れ|上が)",
    ]),
)
KOREAN = Words(
    subject=r"(?:(?<!감시 )(?<!보안 )(?<!오래된 )(?<!낡은 )카메라|시점|화면|시야|앵글|렌즈|프레임|샷|영상|시선|뷰|구도|장면|관찰자)(?:가|이|는|은)",
    gap=r"\s(?:[^.!?]{0,22}?)",
    verb=r"회전|이동|전진|후진|비행|돌[며고아]|돈다|도는|움직|올라|내려|상승|하강|다가|멀어|확대|축소|줌|패닝|팬|틸트|따라|흔들|고정|미끄러|지나|훑|나아|가로지르|통과|뒤로|물러|바뀌|바뀐|선회|떠오르|기울|들어[가간]|앞으로|향해|멈춰|날아|빠져나|당겨|밀고",
    phrases="|".join([
        r"드론\s*(?:촬영|영상|샷|시점|뷰|으로\s*(?:촬영|찍))|항공\s*(?:촬영|샷)|(?:1|일)\s*인칭|핸드\s*헬드|트래킹\s*샷|줌\s*(?:인|아웃)|패닝|틸트\s*(?:업|다운|샷)|고정(?:된)?\s*(?:카메라|샷|촬영|앵글)|(?:달리|돌리)\s*(?:샷|인|아웃)|카메라\s*(?:워크|움직임|이동|무빙|무브)|카메라로?\s*(?:따라가|훑)",
        r"(?:^|[.!?]\s*)(?:(?![가이]\s)[^.!?]){0,24}(?:도는|나는|다가가는|이동하는|따라가는|걷는|지나가?는|향하는|올라가는|내려가는|나아가는|비행하는|회전하는|상승하는)\s*(?:카메라|영상|시점|샷|장면|화면)",
        r"(?:^|[.!?]\s*)카메라(?:가|는)(?![^.]{0,18}(?:달려|놓여|있다|걸려|설치|세워|장착|낡))\s|(?:걸으면서|걸으며|이동하며|이동하면서|움직이며)\s*(?:촬영|찍)|(?:훑는|비추는|훑어보는)\s*(?:영상|샷|카메라|화면)",
        r"에서\s*(?:촬영|찍은)|드론(?:으로|이)\s[^.]{0,16}(?:비춘|비추|촬영|찍|담)|(?:천천히|서서히)\s*(?:확대|축소|줌)",
        r"(?:우리는|우리가|관객은|시청자는|시청자가)\s[^.]{0,20}(?:걸어|걷|나아|지나|이동|날아|들어|올라|전진|통과|내려|따라|다가|돌아|향해)",
    ]),
)
ARABIC = Words(
    subject=r"(?:الكاميرا|العدسة|المشهد|اللقطة|المنظور|زاوية\s+(?:الرؤية|التصوير|الكاميرا|النظر)|وجهة\s+النظر|الصورة|المشاهد|الإطار|المنظر|عدسة\s+الكاميرا|نقطة\s+النظر)(?!\s+(?:الأمنية|المراقبة))\b",
    gap=r"(?:\s+\w+){0,2}?\s+",
    verb=r"\bو?[تي](?:دور|تحرك|تقدم|تراجع|حلق|نتقل|رتفع|نخفض|قترب|بتعد|ميل|نزلق|تبع|تابع|صعد|هبط|لتف|طير|سير|مر|مشي|تجه|تجول|ستدير|نحرف|تغير|كبر|توغل|عبر|طوف|نساب|علو|تسع|ستعرض|مسح|ضيق|نعطف|هتز|دخل|(?:بقى|ظل)\s+ثابت)\w*",
    verb_first=True,
    phrases="|".join([
        r"لقط(?:ة|ات)\s+(?:ثابتة|تتبع|متحركة|بانورامية|متتبعة|(?:جوية\s+)?(?:ب|من\s+|باستخدام\s+)(?:ال)?(?:طائرة|درون))|لقط(?:ة|ات)\s+(?:\w+\s+){0,4}[تي](?:حلق|تحرك|تقدم|تبع|دور)|تصوير\s+جوي|الشخص\s+الأول|كاميرا\s+(?:محمولة|ثابتة|متحركة|يدوية)|محمولة?\s+باليد",
        r"\b(?:تكبير|تقريب|تصغير)\s+(?:\w+\s+)?(?:على|نحو|إلى|لل|ل)|حركة\s+(?:\w+\s+)?(?:ل?ال|لل)?كاميرا|(?:^|[.،]\s*)(?:تحليق|طيران|دوران|تقدم|جولة)\s+(?:\w+\s+)?(?:فوق|حول|عبر|نحو|إلى)|(?:ال)?كاميرا\s+(?:لا\s+تتحرك|ثابتة)|\bزوم\b|مصورة?\s+(?:ب|من)|تصوير\s+(?:ب|من)",
        r"(?:^|[.،]\s*|\bو)الكاميرا(?!\s+(?:معلقة|موضوعة|على|القديمة|المراقبة|الأمنية|فوق))\s+\w|\b[تي]\w+\s+الكاميرا\b",
        r"(?:^|\s)و?ن(?:سير|تحرك|تقدم|مشي|طير|عبر|مر|صعد|دخل|تجول|حلق|دور|نتقل|قترب|هبط|تجه|بتعد|نعطف|نزل|توجه|خرج|غادر|صل\s+إلى|واصل)\b",
    ]),
)
LANGUAGES = {
    "en": ENGLISH, "fr": FRENCH, "de": GERMAN, "es": SPANISH, "it": ITALIAN, "pt": PORTUGUESE, "ru": RUSSIAN, "zh": CHINESE, "ja": JAPANESE,
    "ko": KOREAN, "ar": ARABIC,
}  # fmt: skip


@cache
def motion_patterns() -> tuple[re.Pattern[str], ...]:
    """Returns one compiled expression per language."""
    return tuple(re.compile(words.pattern(), FLAGS) for words in LANGUAGES.values())
